"""Against PyTorch's own double backward of F.batch_norm."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.meta.engines.hand_derived.batch_norm import BatchNorm
from tests.support import second_derivatives
from tests.support.second_derivatives import error

EPS = 1e-5
SHAPES = {
    "features": (7, 3),
    "two rows": (2, 3),
    "1-d": (4, 3, 5),
    "2-d": (3, 4, 4, 5),
    "3-d": (2, 3, 2, 3, 2),
    "one pixel": (6, 3, 1, 1),
    "one sample": (1, 3, 4, 2),
    "one channel": (5, 1, 3),
}
NAMES = ("dx", "dweight", "dbias")
COTANGENTS = [c for k in (1, 2) for c in itertools.combinations(NAMES, k)]

Normalise = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]


def ours(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y: Tensor = BatchNorm.apply(x, weight, bias, (None, None), 0.0, EPS)
    return y


def torchs(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=EPS)


@dataclass
class Problem:
    """Inputs, the cotangent g of y, and those of the three gradients."""

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    g: Tensor
    cotangents: dict[str, Tensor]

    def to(self, dtype: torch.dtype) -> Problem:
        def cast(t: Tensor | None) -> Any:
            return None if t is None else t.to(dtype)

        cotangents = {name: cast(t) for name, t in self.cotangents.items()}
        return Problem(cast(self.x), cast(self.weight), cast(self.bias), cast(self.g), cotangents)


def problem(
    shape: Sequence[int],
    *,
    affine: bool = True,
    asked: Sequence[str] = NAMES,
    dtype: torch.dtype = torch.float64,
    weights: torch.dtype | None = None,
    mean: float = 0.3,
    seed: int = 0,
) -> Problem:
    r = torch.Generator().manual_seed(seed)

    def draw(*size: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.randn(size, generator=r, dtype=torch.float64).to(kind)

    kind = weights or dtype
    channels = shape[1]
    x = (draw(*shape, kind=torch.float64) + mean).to(dtype)
    weight = 1 + 0.3 * draw(channels, kind=kind) if affine else None
    bias = draw(channels, kind=kind) if affine else None
    g = draw(*shape)
    cotangents = {"dx": draw(*shape)}
    if affine:
        size = len(x.flatten()) ** 0.5  # sums over so many elements: of one size with dx
        cotangents |= {
            "dweight": size * draw(channels, kind=kind),
            "dbias": draw(channels, kind=kind),
        }
    return Problem(x, weight, bias, g, {k: v for k, v in cotangents.items() if k in asked})


def leaf(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.detach().requires_grad_()


def derivatives(normalize: Normalise, p: Problem) -> dict[str, Tensor]:
    """Value, first derivatives, and the second ones: the cotangents of g and of x."""
    x, weight, bias, g = leaf(p.x), leaf(p.weight), leaf(p.bias), leaf(p.g)
    assert x is not None
    assert g is not None
    y = normalize(x, weight, bias)
    inputs = {"dx": x}
    if weight is not None and bias is not None:
        inputs |= {"dweight": weight, "dbias": bias}
    return second_derivatives.derivatives(y, inputs, g, p.cotangents)


assert_same = partial(second_derivatives.assert_same, share=1e-11)


@pytest.mark.parametrize(
    ("shape", "asked"),
    [
        *((shape, asked) for shape in SHAPES for asked in (NAMES, None)),
        *(("1-d", asked) for asked in COTANGENTS),
    ],
    ids=str,
)
def test_all_derivatives_are_torchs(shape: str, asked: Sequence[str] | None) -> None:
    """None: without gain and shift."""
    p = problem(SHAPES[shape], affine=asked is not None, asked=asked or NAMES)
    actual = derivatives(ours, p)
    assert_same(actual, derivatives(torchs, p))
    if asked in (None, NAMES):  # with two rows x̂ is ±1, and yet not constant
        assert float(actual["of x"].abs().max()) > 1e-4


@pytest.mark.parametrize("learns", [(True, False, False), (True, True, False), (False, True, True)])
def test_gradients_that_nobody_asks_for_are_none(learns: tuple[bool, ...]) -> None:
    """And the second derivative by g is right where x is a constant."""
    p = problem((3, 2, 4))
    results = []
    for normalize in (ours, torchs):
        inputs = [t.detach().requires_grad_(on) for t, on in zip(
            (p.x, p.weight, p.bias), learns, strict=True) if t is not None]  # fmt: skip
        g = p.g.clone().requires_grad_()
        wanted = [t for t in inputs if t.requires_grad]
        grads = torch.autograd.grad(normalize(*inputs), wanted, g, create_graph=True)
        names = [n for n, on in zip(NAMES, learns, strict=True) if on]
        (of_g,) = torch.autograd.grad(grads, g, [p.cotangents[n] for n in names])
        results.append({**dict(zip(names, grads, strict=True)), "of g": of_g})
    assert_same(*results)


def last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last)


def one_pixel(t: Tensor) -> Tensor:
    """As the backward pass of a mean over the pixels gives it."""
    return t[:, :, :1, :1].expand(t.shape)


def every_other(t: Tensor) -> Tensor:
    return t.repeat_interleave(2, 0)[::2]


@pytest.mark.parametrize("layout", [last, one_pixel, every_other])
@pytest.mark.parametrize("which", ["x", "g", "dx", "all"])
def test_layouts_may_differ(which: str, layout: Callable[[Tensor], Tensor]) -> None:
    p = problem((3, 4, 5, 2))
    if which in ("x", "all") and layout is not one_pixel:
        p.x = layout(p.x)
    if which in ("g", "all"):
        p.g = layout(p.g)
    if which in ("dx", "all"):
        p.cotangents["dx"] = layout(p.cotangents["dx"])
    assert_same(derivatives(ours, p), derivatives(torchs, p))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_layout_is_kept(layout: torch.memory_format) -> None:
    p = problem((3, 4, 5, 2))
    p.x, p.g = p.x.contiguous(memory_format=layout), p.g.contiguous(memory_format=layout)
    p.cotangents["dx"] = p.cotangents["dx"].contiguous(memory_format=layout)
    values = derivatives(ours, p)
    for name in ("y", "dx", "of g", "of x"):
        assert values[name].is_contiguous(memory_format=layout), name


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("mean", "dtype", "weights"),
    [
        (0.0, torch.float32, torch.float32),
        (10.0, torch.float32, torch.float32),
        (1e3, torch.float32, torch.float32),
        (0.0, torch.bfloat16, torch.float32),
        (0.0, torch.bfloat16, torch.bfloat16),
        (10.0, torch.bfloat16, torch.float32),
    ],
)
def test_rounding_errors_are_no_larger_than_torchs(
    mean: float, dtype: torch.dtype, weights: torch.dtype, affine: bool
) -> None:
    """Root mean square over 10 problems; the truth is float64 from the same rounded inputs. 1.1:
    where both only round the result, they differ by the luck of it."""
    squares: dict[str, list[list[float]]] = {}
    for seed in range(10):
        p = problem((8, 6, 7, 7), dtype=dtype, weights=weights, affine=affine, mean=mean, seed=seed)
        truth = derivatives(torchs, p.to(torch.float64))
        both = derivatives(ours, p), derivatives(torchs, p)
        for name in ("y", "dx", "of g", "of x"):
            assert both[0][name].dtype == both[1][name].dtype == dtype
            squares.setdefault(name, []).append([error(b[name], truth[name]) ** 2 for b in both])
    for name, values in squares.items():
        own, native = torch.tensor(values).mean(0).sqrt().tolist()
        assert own <= 1.1 * native, (name, own, native)


@pytest.mark.parametrize("momentum", [0.1, 1.0, 0.0])
def test_running_statistics_move_as_torchs(momentum: float) -> None:
    x = torch.randn(4, 3, 5)
    results = []
    for ours in (True, False):
        mean, variance = torch.full((3,), 2.0), torch.full((3,), 3.0)
        if ours:
            BatchNorm.apply(x, None, None, (mean, variance), momentum, EPS)
        else:
            F.batch_norm(x, mean, variance, None, None, True, momentum, EPS)
        results.append(torch.stack([mean, variance]))
    assert torch.equal(*results)
    moved = torch.full((2, 3), 2.0).index_fill(0, torch.tensor([1]), 3.0)
    assert torch.equal(results[0], moved) == (momentum == 0)


def test_a_third_derivative_is_refused_not_wrong() -> None:
    p = problem((4, 3))
    x = p.x.requires_grad_()
    (dx,) = torch.autograd.grad(ours(x, p.weight, p.bias).pow(3).sum(), x, create_graph=True)
    (ddx,) = torch.autograd.grad(dx.pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        ddx.sum().backward()


@pytest.mark.parametrize("channels", [1, 2])
def test_the_double_backward_saves_no_more_than_it_reads(channels: int) -> None:
    """Full-size tensors that the graph of the first derivatives holds: x, g and nothing else."""
    p = problem((5, channels, 6, 6))
    x, weight, bias, g = leaf(p.x), leaf(p.weight), leaf(p.bias), leaf(p.g)
    saved: list[Tensor] = []

    def keep(t: Tensor) -> Tensor:
        saved.append(t)
        return t

    assert x is not None
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = ours(x, weight, bias)
        torch.autograd.grad(y, [x, weight, bias], g, create_graph=True)  # type: ignore[list-item]
    large = {t.data_ptr() for t in saved if t.numel() == x.numel()}
    assert large == {x.data_ptr(), g.data_ptr()}  # type: ignore[union-attr]
