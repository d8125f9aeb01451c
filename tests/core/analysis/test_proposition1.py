"""Proposition 1 where κ is known, and each step of its reading that the docstring doubts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.analysis.lipschitz import ScalarFunction
from core.analysis.proposition1 import (
    GRID,
    Output,
    class_output,
    examine,
    left_side,
    mixup_l1,
)
from core.models import build_model
from tests.support.streams import generator


def pairs(number: int, size: int, seed: int = 0, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    drawn = torch.randn(2, number, size, generator=generator(seed), dtype=torch.float64)
    return drawn[0], drawn[0] + spread * drawn[1]


class Squares(nn.Module):
    """A network with one hidden layer of squares: Σ aₖ(wₖ·x)², Hessian 2·Wᵀdiag(a)W everywhere."""

    def __init__(self, size: int, hidden: int):
        super().__init__()
        self.hidden = nn.Linear(size, hidden, bias=False)
        self.out = nn.Linear(hidden, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.hidden(x) ** 2)
        return out.squeeze(1)

    @property
    def kappa(self) -> float:
        """Its exact Lipschitz constant of the gradient."""
        w, a = self.hidden.weight.detach(), self.out.weight.detach()[0]
        return float(torch.linalg.eigvalsh(2 * w.T @ torch.diag(a) @ w).abs().max())


def known(name: str) -> tuple[ScalarFunction, float]:
    """Returns a function of 8 numbers and its κ."""
    torch.manual_seed(0)
    if name == "quadratic network":
        model = Squares(8, 20).double()
        return model, model.kappa
    w = torch.randn(8, generator=generator(4), dtype=torch.float64)
    if name == "sine":
        return lambda x: torch.sin(x @ w), float(w @ w)
    if name == "logistic":  # |σ″| is largest, 1/(6·√3), at log(2 + √3)
        return lambda x: torch.sigmoid(x @ w), float(w @ w) / (6 * math.sqrt(3))
    return lambda x: F.gelu(x @ w), float(w @ w) * 2 / math.sqrt(2 * math.pi)  # 2·φ(0)


@pytest.mark.parametrize("spread", [1e-3, 1.0])
@pytest.mark.parametrize("name", ["quadratic network", "sine", "logistic", "gelu"])
def test_the_bound_is_never_violated_where_kappa_is_known(name: str, spread: float) -> None:
    function, kappa = known(name)
    x, other = pairs(300, 8, spread=spread)
    seen = examine(function, x, other, generator=generator(), points=3, iterations=200)
    rounding = 1e-9 / spread**2
    assert bool((seen.ratio <= kappa * (1 + 1e-9) + rounding).all())
    assert bool((seen.norm <= kappa * (1 + 1e-9)).all())
    assert bool((seen.along <= seen.norm * (1 + 1e-3)).all())


def test_of_a_quadratic_every_step_is_exact() -> None:
    """The ratio is |⟨u, H·u⟩| whatever λ is, and the estimate of κ is κ."""
    torch.manual_seed(0)
    model = Squares(8, 20).double()
    w, a = model.hidden.weight.detach(), model.out.weight.detach()[0]
    x, other = pairs(50, 8)
    seen = examine(model, x, other, generator=generator(), iterations=2000, tolerance=1e-14)
    u = F.normalize(x - other)
    expected = (2 * ((u @ w.T) ** 2) @ a).abs()
    torch.testing.assert_close(seen.ratio, expected.expand(len(GRID), -1), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(seen.along, expected)
    torch.testing.assert_close(seen.norm, torch.full_like(seen.norm, model.kappa))


@pytest.mark.parametrize("output", ["logit", "probability"])
def test_on_a_trained_like_network_ratios_stay_below_the_curvature(output: Output) -> None:
    torch.manual_seed(0)
    model = build_model("digits_cnn_smooth", in_channels=1, num_classes=4, image_size=6, width=3)
    nn.init.normal_(model.classifier.weight)
    model = model.double().eval()
    x, other = (v.view(40, 1, 6, 6) for v in pairs(40, 36))
    classes = torch.arange(40) % 4
    seen = examine(class_output(model, classes, output), x, other, generator=generator(), points=17)
    assert bool((seen.ratio.amax(dim=0) <= seen.along * 1.001).all())
    assert bool((seen.along <= seen.norm * 1.01).all())
    assert float((seen.ratio.amax(dim=0) / seen.norm).max()) > 0.02
    # Rows do not touch one another, and each is of its own class.
    alone = examine(
        class_output(model, classes[7:8], output),
        x[7:8],
        other[7:8],
        generator=generator(),
        points=17,
    )
    torch.testing.assert_close(alone.ratio[:, 0], seen.ratio[:, 7])
    values = model(x) if output == "logit" else model(x).softmax(dim=1)
    expected = values[range(40), classes]
    torch.testing.assert_close(class_output(model, classes, output)(x), expected)


# What the docstring doubts.


def test_no_kappa_bounds_a_relu_network() -> None:
    """max(x, 0) between −ε and ε at λ = 1/2: left side ε/2, ratio 1/ε; its Hessian is 0."""

    def relu(x: Tensor) -> Tensor:
        return x[:, 0].relu()

    for epsilon in (1.0, 1e-2, 1e-4):
        x = torch.tensor([[epsilon]], dtype=torch.float64)
        seen = examine(relu, x, -x, generator=generator(), lam=[0.5], points=4)
        assert math.isclose(float(seen.ratio), 1 / epsilon, rel_tol=1e-9)
        assert float(seen.norm) == 0.0


def test_a_left_side_of_zero_leaves_kappa_free() -> None:
    x, other = pairs(20, 2)
    other[:, 1] = x[:, 1]
    for c in (1.0, 1000.0):
        seen = examine(lambda v, c=c: v[:, 0] + c * v[:, 1] ** 2, x, other, generator=generator())
        assert float(seen.ratio.max()) < 1e-9 * c
        torch.testing.assert_close(seen.norm, torch.full_like(seen.norm, 2 * c))


def test_with_labels_for_predictions_a_constant_violates_every_bound() -> None:
    x, other = pairs(20, 3)
    one, zero = torch.ones(20, dtype=torch.float64), torch.zeros(20, dtype=torch.float64)

    def nothing(v: Tensor) -> Tensor:
        return torch.zeros(len(v), dtype=v.dtype)

    loss = mixup_l1(nothing, x, other, one, zero, [0.3])
    torch.testing.assert_close(loss, torch.full((1, 20), 0.3, dtype=torch.float64))
    assert float(left_side(nothing, x, other).max()) == 0.0


def test_the_loss_is_the_left_side_up_to_what_does_not_fit() -> None:
    function, _ = known("logistic")
    x, other = pairs(30, 8)
    y, y_other = (torch.arange(30) % 2).double(), (torch.arange(30) % 3 == 0).double()
    gap, loss = left_side(function, x, other), mixup_l1(function, x, other, y, y_other)
    lam = torch.tensor(GRID, dtype=torch.float64).unsqueeze(1)
    misfit = lam * (function(x) - y).abs() + (1 - lam) * (function(other) - y_other).abs()
    assert bool(((loss - gap).abs() <= misfit + 1e-12).all())
    assert float((loss - gap).abs().max()) > 0.1
    fitted = mixup_l1(function, x, other, function(x), function(other))
    torch.testing.assert_close(fitted, gap)


def test_far_pairs_of_a_probability_say_little_of_kappa() -> None:
    function, kappa = known("logistic")
    for spread, most in ((0.1, kappa), (100.0, 0.01 * kappa)):
        x, other = pairs(200, 8, spread=spread)
        seen = examine(function, x, other, generator=generator(), lam=[0.5], points=2)
        squares = (x - other).square().sum(dim=1)
        assert bool((seen.ratio[0] <= 8 / squares).all())
        assert float(seen.ratio.max()) <= most


# Values by hand, seeds, and errors.


def test_numbers_by_hand() -> None:
    """f = x³ between 2 and 0 at λ = 1/4: 1/8 against 2, over λ(1−λ)·4/2 = 3/8."""
    x, other = (torch.tensor([[v]], dtype=torch.float64) for v in (2.0, 0.0))

    def cube(v: Tensor) -> Tensor:
        return v[:, 0] ** 3

    seen = examine(cube, x, other, generator=generator(), lam=[0.25], points=3)
    assert math.isclose(float(seen.gap), 1.875)
    assert math.isclose(float(seen.scale), 0.375)
    assert math.isclose(float(seen.ratio), 5.0)
    assert math.isclose(float(seen.norm), 12.0)  # |6x| at the end x = 2
    assert math.isclose(float(seen.along), 12.0)
    targets = [torch.tensor([v], dtype=torch.float64) for v in (7.0, 1.0)]
    loss = mixup_l1(cube, x, other, *targets, [0.25])
    assert math.isclose(float(loss), abs(0.125 - 2.5))


def test_the_ends_of_the_segment_are_looked_at_and_the_points_between() -> None:
    looked: list[float] = []

    def watched(x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            looked.append(float(x.detach()[0, 0]))
        return x[:, 0] ** 2

    x, other = (torch.tensor([[v]], dtype=torch.float64) for v in (1.0, 0.0))
    examine(watched, x, other, generator=generator(), points=5)
    assert sorted(set(looked)) == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("lam", "points", "message"),
    [
        ((0.5, 1.0), 5, r"lam must lie in \(0, 1\), got 1.0"),
        ((0.0,), 5, r"lam must lie in \(0, 1\), got 0.0"),
        ((0.5,), 1, "points must be at least 2, the ends, got 1"),
    ],
)
def test_what_is_off_is_named(lam: Sequence[float], points: int, message: str) -> None:
    x, other = pairs(3, 2)
    with pytest.raises(ValueError, match=message):
        examine(lambda v: v[:, 0], x, other, generator=generator(), lam=lam, points=points)


def test_equal_inputs_are_named() -> None:
    x, other = pairs(3, 2)
    other[1] = x[1]
    with pytest.raises(ValueError, match="pair 1 are equal"):
        examine(lambda v: v[:, 0], x, other, generator=generator())
