"""Against PyTorch's own double backward of F.conv*d."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from core.meta.engines.hand_derived.convolution import Convolution, Wanted
from tests.support import second_derivatives
from tests.support.second_derivatives import error

NAMES = ("dx", "dweight", "dbias")
COTANGENTS = [c for k in (1, 2) for c in itertools.combinations(NAMES, k)]
NATIVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class Case:
    """Shapes and geometry of one convolution."""

    x: tuple[int, ...] = (3, 4, 6, 5)
    out: int = 6
    kernel: tuple[int, ...] = (3, 3)
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    bias: bool = True
    channels_last: bool = False

    @property
    def geometry(self) -> tuple[Any, ...]:
        none = [0] * len(self.kernel)
        lists = [list(v) for v in (self.stride, self.padding, self.dilation)]
        return (*lists, False, none, self.groups)


CASES = {
    "plain": Case(),
    "padded": Case(padding=(1, 2)),
    "strided": Case(stride=(2, 3), padding=(1, 1)),
    "stride leaves pixels over": Case(x=(2, 3, 8, 8), stride=(3, 3), kernel=(2, 2)),
    "dilated": Case(x=(2, 3, 9, 8), dilation=(2, 3), padding=(1, 0)),
    "1x1": Case(kernel=(1, 1), bias=False),
    "1x1 strided": Case(kernel=(1, 1), stride=(2, 2)),
    "whole image": Case(kernel=(6, 5)),
    "groups": Case(groups=2, padding=(1, 1)),
    "depthwise": Case(out=4, groups=4, padding=(1, 1)),
    "depthwise twice": Case(out=8, groups=4, stride=(2, 2), bias=False),
    "no bias": Case(bias=False, padding=(1, 1)),
    "one sample": Case(x=(1, 4, 6, 5)),
    "one channel": Case(x=(3, 1, 6, 5), out=1),
    "everything": Case(
        x=(2, 4, 9, 8), stride=(2, 1), padding=(2, 1), dilation=(1, 2), groups=2, bias=False
    ),
    "1-d": Case((3, 4, 9), 6, (3,), (2,), (1,), (1,), 2),
    "3-d": Case((2, 2, 4, 5, 3), 3, (2, 3, 1), (1, 2, 1), (1, 0, 0), (1, 1, 2)),
    "channels last": Case(padding=(1, 1), channels_last=True),
    "channels last, strided": Case(stride=(2, 2), padding=(1, 1), bias=False, channels_last=True),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)

Convolve = Callable[[Tensor, Tensor, Tensor | None, Case], Tensor]


def ours(x: Tensor, weight: Tensor, bias: Tensor | None, case: Case) -> Tensor:
    y: Tensor = Convolution.apply(x, weight, bias, case.geometry, Wanted())
    return y


def torchs(x: Tensor, weight: Tensor, bias: Tensor | None, case: Case) -> Tensor:
    convolve: Any = NATIVE[len(case.kernel)]
    y: Tensor = convolve(x, weight, bias, case.stride, case.padding, case.dilation, case.groups)
    return y


@dataclass
class Problem:
    case: Case
    inputs: dict[str, Tensor]
    """dx: x; dweight: weight; dbias: bias, where there is one."""
    g: Tensor
    cotangents: dict[str, Tensor] = field(default_factory=dict)

    def to(self, dtype: torch.dtype) -> Problem:
        def cast(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: t.to(dtype) for name, t in tensors.items()}

        return replace(
            self, inputs=cast(self.inputs), g=self.g.to(dtype), cotangents=cast(self.cotangents)
        )


def problem(
    case: Case, asked: Sequence[str] = NAMES, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Problem:
    r = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        t = torch.randn(size, generator=r, dtype=torch.float64).to(dtype)
        last = case.channels_last and t.dim() == 4
        return t.contiguous(memory_format=torch.channels_last) if last else t

    inputs = {
        "dx": draw(*case.x),
        "dweight": draw(case.out, case.x[1] // case.groups, *case.kernel),
    }
    if case.bias:
        inputs["dbias"] = draw(case.out)
    y = torchs(inputs["dx"], inputs["dweight"], None, case)
    cotangents = {name: draw(*t.shape) for name, t in inputs.items() if name in asked}
    return Problem(case, inputs, draw(*y.shape), cotangents)


def derivatives(convolve: Convolve, p: Problem) -> dict[str, Tensor]:
    """Value, first derivatives, and the second ones: the cotangents of g and of x."""
    leaves = {name: t.detach().requires_grad_() for name, t in p.inputs.items()}
    g = p.g.detach().requires_grad_()
    y = convolve(leaves["dx"], leaves["dweight"], leaves.get("dbias"), p.case)
    return second_derivatives.derivatives(y, leaves, g, p.cotangents)


assert_same = partial(second_derivatives.assert_same, share=1e-12)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        *((name, NAMES) for name in CASES),
        *(("padded", asked) for asked in COTANGENTS),
        ("1-d", ("dbias",)),
        ("3-d", ("dbias",)),
    ],
    ids=lambda given: given if isinstance(given, str) else "+".join(given),
)
def test_all_derivatives_are_torchs(name: str, asked: Sequence[str]) -> None:
    """Every geometry, which our functions hand on, and all that may be asked of one."""
    case = CASES[name]
    p = problem(case, [name for name in asked if case.bias or name != "dbias"])
    assert_same(derivatives(ours, p), derivatives(torchs, p))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["padded", "groups", "strided", "channels last", "1-d", "1x1"])
def test_rounding_errors_are_no_larger_than_torchs(name: str, dtype: torch.dtype) -> None:
    """Root mean square over 10 problems; the truth is float64 from the same rounded inputs. 1.25:
    sums of a few dozen terms differ by the luck of their order."""
    case = CASES[name]
    squares: dict[str, list[list[float]]] = {}
    for seed in range(10):
        p = problem(replace(case, x=(8, *case.x[1:])), seed=seed, dtype=dtype)
        truth = derivatives(torchs, p.to(torch.float64))
        both = derivatives(ours, p), derivatives(torchs, p)
        for key in truth:
            assert both[0][key].dtype == both[1][key].dtype == dtype
            squares.setdefault(key, []).append([error(b[key], truth[key]) ** 2 for b in both])
    for key, values in squares.items():
        own, native = torch.tensor(values).mean(0).sqrt().tolist()
        assert own <= 1.25 * native, (key, own, native)


@every_case
def test_memory_formats_are_torchs(case: Case) -> None:
    p = problem(case)
    actual, native = derivatives(ours, p), derivatives(torchs, p)
    for name in ("y", "dx", "of g", "of x"):
        assert actual[name].is_contiguous() or case.channels_last, name
        if case.channels_last:
            assert actual[name].is_contiguous(memory_format=torch.channels_last), name
    assert actual["y"].stride() == native["y"].stride()


def test_expanded_and_sliced_tensors() -> None:
    p = problem(Case(x=(6, 4, 6, 8), padding=(1, 1)))
    p.inputs["dx"] = p.inputs["dx"][::2, :, :, ::2]
    p.g = p.g[:3, :, :1, :1].expand(3, 6, 6, 4)
    p.cotangents["dx"] = p.cotangents["dx"][:1, :, :, :1].expand(3, 4, 6, 4)
    assert_same(derivatives(ours, p), derivatives(torchs, p))


@pytest.mark.parametrize("learns", [(True, False), (False, True)])
def test_gradients_that_nobody_needs_cost_nothing(learns: tuple[bool, bool]) -> None:
    p = problem(replace(CASES["padded"], bias=False))
    x, weight = (t.requires_grad_(on) for t, on in zip(p.inputs.values(), learns, strict=True))
    one = multiply_adds(lambda: ours(x.detach(), weight.detach(), None, p.case))
    y = ours(x, weight, None, p.case)
    wanted = x if learns[0] else weight
    actual: list[Tensor] = []
    assert multiply_adds(lambda: actual.extend(torch.autograd.grad(y, wanted, p.g))) == one
    x2, weight2 = (t.detach().requires_grad_() for t in p.inputs.values())
    truth = torch.autograd.grad(torchs(x2, weight2, None, p.case), (x2, weight2), p.g)
    torch.testing.assert_close(actual[0], truth[0 if learns[0] else 1])


@pytest.mark.parametrize(
    ("asked", "convolutions"),
    [(("dx",), 1), (("dweight",), 2), (("dx", "dweight"), 3), (("dbias",), 0)],
)
def test_the_double_backward_computes_what_is_asked_for(
    asked: Sequence[str], convolutions: int
) -> None:
    """In units of one forward pass: conv(u, w); conv(x, a) and convᵀ(g, a)."""
    p = problem(CASES["padded"], asked)
    leaves = {name: t.requires_grad_() for name, t in p.inputs.items()}
    g = p.g.requires_grad_()
    one = multiply_adds(lambda: torchs(*[t.detach() for t in leaves.values()], p.case))  # type: ignore[arg-type, call-arg]
    y = ours(leaves["dx"], leaves["dweight"], leaves["dbias"], p.case)
    grads = torch.autograd.grad(y, list(leaves.values()), g, create_graph=True)
    outputs = [t for name, t in zip(leaves, grads, strict=True) if name in asked]

    def again() -> None:
        torch.autograd.grad(
            outputs, (g, leaves["dx"]), list(p.cotangents.values()), allow_unused=True
        )

    assert multiply_adds(again) == convolutions * one


def test_weights_that_are_not_wanted_get_no_gradient() -> None:
    p = problem(CASES["padded"])
    leaves = {name: t.requires_grad_() for name, t in p.inputs.items()}
    wanted = Wanted()
    y = Convolution.apply(*leaves.values(), p.case.geometry, wanted)
    full = torch.autograd.grad(y, list(leaves.values()), p.g, retain_graph=True)
    wanted.weights = False
    grads = torch.autograd.grad(y, list(leaves.values()), p.g, allow_unused=True)
    assert torch.equal(grads[0], full[0])
    assert grads[1] is grads[2] is None
    assert full[1] is not None


def test_a_third_derivative_is_refused_not_wrong() -> None:
    p = problem(CASES["plain"])
    x, weight = p.inputs["dx"].requires_grad_(), p.inputs["dweight"].requires_grad_()
    y = ours(x, weight, None, p.case)
    dx, dw = torch.autograd.grad(y.pow(3).sum(), (x, weight), create_graph=True)
    (ddx,) = torch.autograd.grad(dx.pow(2).sum() + dw.pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        ddx.sum().backward()


def multiply_adds(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())
