"""The measurements agree with what is known exactly, and would show it if they did not."""

from __future__ import annotations

import math

import pytest
import torch

from core.analysis import known
from core.analysis.known import known_networks


def test_the_bound_holds_is_nearly_attained_and_the_estimate_is_right() -> None:
    squares, sine = known_networks()
    for network in (squares, sine):
        assert network.violations == 0
        assert network.looked_at == known.PAIRS * 9
        assert 0.98 * network.kappa < network.ratio <= network.kappa * (1 + 1e-6)
    assert math.isclose(squares.estimate, squares.kappa, rel_tol=1e-4)
    assert 0.98 * sine.kappa < sine.estimate <= sine.kappa * (1 + 1e-9)


def test_a_kappa_that_is_too_low_is_violated(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.linalg.eigh

    def lowered(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, vectors = real(matrix)
        return 0.9 * values, vectors

    monkeypatch.setattr(torch.linalg, "eigh", lowered)
    squares, sine = known_networks()
    assert squares.violations > 0
    assert sine.violations == 0
