from __future__ import annotations

import pytest

from core.semi_supervised.ramp import ramp


@pytest.mark.parametrize(
    ("kind", "progress", "share", "expected"),
    [
        ("none", 0.0, 0.0, 1.0),
        ("linear", 0.0, 0.5, 0.0),
        ("linear", 0.125, 0.5, 0.25),
        ("linear", 1 / 128, 1 / 64, 0.5),
        ("linear", 0.5, 0.5, 1.0),
        ("linear", 0.9, 0.5, 1.0),
        ("linear", 0.0, 0.0, 1.0),
        # exp(−5), exp(−5/4) and exp(−0.05), from a table of the exponential function
        ("sigmoid", 0.0, 0.4, 0.006737946999085467),
        ("sigmoid", 0.2, 0.4, 0.2865047968601901),
        ("sigmoid", 0.36, 0.4, 0.951229424500714),
        ("sigmoid", 0.4, 0.4, 1.0),
        ("sigmoid", 0.99, 0.4, 1.0),
        ("sigmoid", 0.0, 0.0, 1.0),
    ],
)
def test_values_by_hand(kind: str, progress: float, share: float, expected: float) -> None:
    assert ramp(kind, progress, share) == pytest.approx(expected, rel=1e-12)  # type: ignore[arg-type]


def test_an_unknown_kind() -> None:
    with pytest.raises(ValueError, match="ramp must be none, linear or sigmoid; got 'cosine'"):
        ramp("cosine", 0.1, 0.5)  # type: ignore[arg-type]
