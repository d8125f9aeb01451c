from __future__ import annotations

import pytest

from core.semi_supervised.threshold import threshold_at


def test_the_papers_six_falls() -> None:
    """σ0 = 0.95, σd = 0.05, K = 30 over 200 epochs (section IV-B): 0.95 down to 0.65."""
    levels = [threshold_at(t, start=0.95, step=0.05, period=30) for t in range(200)]
    expected = [0.95] * 30 + [0.9] * 30 + [0.85] * 30 + [0.8] * 30 + [0.75] * 30 + [0.7] * 30
    assert levels == pytest.approx(expected + [0.65] * 20)


def test_a_large_step_ends_at_zero() -> None:
    levels = [threshold_at(t, start=0.95, step=0.2, period=30) for t in (149, 150, 199)]
    assert levels == pytest.approx([0.15, 0.0, 0.0])


def test_no_step_is_plain_pseudo_labelling() -> None:
    assert {threshold_at(t, start=0.9, step=0.0, period=1) for t in range(50)} == {0.9}


def test_the_text_to_the_letter_lets_everything_in_at_once() -> None:
    def literal(epoch: int, step: float) -> float:
        return threshold_at(epoch, start=0.95, step=step, period=30, formula="literal")

    assert literal(29, 0.05) == 0.95
    assert literal(30, 0.05) == 0.0  # 0.95 − 0.05·1·30
    # A small σd shows the recursion: σ_30 = 0.95 − 0.03, σ_59 = 0.95 − 30·0.03, σ_60 is 0.06 less.
    assert literal(30, 0.001) == pytest.approx(0.92)
    assert literal(59, 0.001) == pytest.approx(0.05)
    assert literal(60, 0.001) == 0.0
