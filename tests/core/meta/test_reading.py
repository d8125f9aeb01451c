from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch

from core.meta.reading import DEFAULT, LOGIT_MARGIN, PAPER, READINGS, Reading


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def test_presets_are_what_the_documentation_says() -> None:
    assert READINGS == {"default": DEFAULT, "paper": PAPER}
    assert Reading() == DEFAULT == Reading(1.0, "sigmoid_before", "logit", "rms", 4.0, 1)
    assert PAPER.init_alpha == 1
    assert (PAPER.projection, PAPER.gradient, PAPER.scale) == ("sigmoid_after", "lam", "mean")
    assert (PAPER.step_size, PAPER.meta_steps) == (5.0, 1)
    assert PAPER.inner_step == DEFAULT.inner_step == "gradient_descent"


def test_projections_by_hand() -> None:
    lam = f64(0.2, 0.5, 0.9)
    z = f64(-0.5, 0.3, 1.5)
    after, before = Reading(projection="sigmoid_after"), Reading(projection="sigmoid_before")
    clip = Reading(projection="clip")
    squeezed = [sigmoid(v) for v in z.tolist()]
    assert after.start(lam).tolist() == clip.start(lam).tolist() == lam.tolist()
    assert before.start(lam).tolist() == pytest.approx([math.log(0.25), 0.0, math.log(9.0)])
    assert after.virtual(z).tolist() == clip.virtual(z).tolist() == [0.0, 0.3, 1.0]
    assert before.virtual(z).tolist() == pytest.approx(squeezed, rel=1e-14)
    assert after.final(z).tolist() == before.final(z).tolist() == pytest.approx(squeezed)
    assert clip.final(z).tolist() == [0.0, 0.3, 1.0]


def test_logits_of_zero_and_one_are_finite() -> None:
    z = DEFAULT.start(f64(0.0, 1.0))
    limit = math.log(LOGIT_MARGIN / (1 - LOGIT_MARGIN))
    assert z.tolist() == pytest.approx([limit, -limit])
    single = DEFAULT.virtual(DEFAULT.start(torch.tensor([0.0, 1.0])))
    assert single.tolist() == pytest.approx([0.0, 1.0], abs=2 * LOGIT_MARGIN)


def test_the_paper_starts_within_half_and_sigmoid_of_one() -> None:
    lam = torch.rand(1000, dtype=torch.float64)
    final = PAPER.final(PAPER.start(lam))
    assert float(final.min()) >= 0.5
    assert float(final.max()) <= sigmoid(1.0)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("mean", [3.0, -4.0]),
        ("sum", [6.0, -8.0]),
        ("rms", [3 / math.sqrt(12.5), -4 / math.sqrt(12.5)]),
        ("sign", [1.0, -1.0]),
    ],
)
def test_scales_by_hand(scale: Any, expected: list[float]) -> None:
    reading = Reading(projection="clip", gradient="lam", scale=scale, step_size=0.1)
    moved = reading.move(f64(10.0, 20.0), f64(0.2, 0.5), f64(3.0, -4.0))
    by_hand = [10 - 0.1 * expected[0], 20 - 0.1 * expected[1]]
    assert moved.tolist() == pytest.approx(by_hand, rel=1e-14)


def test_logit_gradient_is_the_chain_rule() -> None:
    """Moves by the derivative of m(sigmoid(z)); here m(λ) = Σ c λ², differentiated by autograd."""
    c = f64(1.0, -2.0, 0.5)
    z = f64(0.3, -1.0, 2.0).requires_grad_()
    lam = torch.sigmoid(z)
    (truth,) = torch.autograd.grad((c * lam**2).sum(), z)
    reading = Reading(gradient="logit", scale="mean", step_size=2.0)
    moved = reading.move(z.detach(), lam.detach(), 2 * c * lam.detach())
    torch.testing.assert_close(moved, z.detach() - 2.0 * truth, rtol=1e-14, atol=1e-15)
    by_lam = Reading(gradient="lam", scale="mean", step_size=2.0).move(
        z.detach(), lam.detach(), 2 * c * lam.detach()
    )
    assert not torch.allclose(by_lam, moved)


@pytest.mark.parametrize("scale", ["mean", "sum", "rms", "sign"])
@pytest.mark.parametrize("gradient", ["lam", "logit"])
def test_zero_hypergradient_moves_nothing(scale: Any, gradient: Any) -> None:
    reading = Reading(scale=scale, gradient=gradient)
    z = torch.tensor([0.3, -2.0])
    assert torch.equal(reading.move(z, torch.sigmoid(z), torch.zeros(2)), z)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e-6, 1.0, 1e30])
def test_rms_moves_do_not_depend_on_the_size_of_the_hypergradient(
    size: float, dtype: torch.dtype
) -> None:
    reading = Reading(gradient="lam", step_size=1.0)
    zero = torch.zeros(2, dtype=dtype)
    slope = torch.tensor([3.0, -4.0], dtype=dtype) * size
    moved = reading.move(zero, zero + 0.5, slope)
    tolerance = 1e-2 if size == 1e-42 and dtype == torch.float32 else 1e-6  # subnormal
    by_hand = [-3 / math.sqrt(12.5), 4 / math.sqrt(12.5)]
    assert moved.tolist() == pytest.approx(by_hand, rel=tolerance)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"projection": "tanh"}, r"Reading.projection must be one of sigmoid_after.*'tanh'"),
        ({"gradient": "theta"}, "Reading.gradient must be one of lam, logit"),
        ({"scale": "max"}, "Reading.scale must be one of mean, sum, rms, sign"),
        ({"inner_step": "adam"}, "Reading.inner_step"),
        ({"step_size": -1.0}, "step_size must be finite and >= 0, got -1.0"),
        ({"step_size": float("nan")}, "step_size must be finite"),
        ({"step_size": float("inf")}, "step_size must be finite"),
        ({"meta_steps": 0}, "meta_steps must be at least 1, got 0"),
        ({"init_alpha": 0.0}, "alpha"),
    ],
)
def test_invalid_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reading(**values)


def test_a_reading_is_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        DEFAULT.step_size = 1.0  # type: ignore[misc]
