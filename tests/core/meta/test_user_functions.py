"""Functions of the user's own, `torch.autograd.Function`, against plain training.

Those that have all derivatives, or say that they lack one, are among the layers of
`hpo.bench.compatibility`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import core
from hpo.bench.compatibility.losses import LossCase
from hpo.bench.compatibility.truth import LR, Data, error, network, slope
from tests.support.second_derivatives import Doubled

EXACT = ("auto", "unroll")
CASE = LossCase(core.soft_cross_entropy)


class Tanh(torch.autograd.Function):
    """With a right second derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return g * (1 - y * y)


class Detached(Tanh):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return Tanh.backward(ctx, g).detach()


class Filled(Tanh):
    """As a kernel of another language fills what it is given."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        filled = torch.empty_like(g)
        filled.detach().numpy()[:] = Tanh.backward(ctx, g).detach().numpy()
        return filled


class Early(torch.autograd.Function):
    """With a derivative that the forward pass has computed, as the layer above cannot know."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.tanh()
        ctx.save_for_backward(1 - y * y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0]


class Fused(torch.autograd.Function):
    """Cross-entropy whose gradient its forward pass computes."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        with torch.enable_grad():
            ends = [t.detach().requires_grad_() for t in (logits, target)]
            loss = core.soft_cross_entropy(*ends)
            ctx.save_for_backward(*torch.autograd.grad(loss, ends))
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return tuple(g * saved for saved in ctx.saved_tensors)


class Layer(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function, self.linear = function, nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        # Beside it the activations go on, so that λ is reached in any case.
        return self.function.apply(self.linear(3 * x)) + x.tanh()  # type: ignore[no-any-return]


def layered(function: type[torch.autograd.Function]) -> nn.Module:
    torch.manual_seed(0)
    return network(Layer(function))


@pytest.mark.parametrize("function", [Detached, Filled, Early])
def test_differences_follow_any_function(function: type[torch.autograd.Function]) -> None:
    model, data = layered(function), Data()
    assert error(model, data, CASE, "finite_difference", slope(model, data, CASE)) < 1e-6


@pytest.mark.parametrize("engine", EXACT)
@pytest.mark.parametrize("function", [Detached, Filled])
def test_a_gradient_without_its_graph_is_refused(
    function: type[torch.autograd.Function], engine: Any
) -> None:
    model, data = layered(function), Data()
    with pytest.raises(ValueError, match=rf'{function.__name__} returns .*"finite_difference"'):
        core.hypergradient(model, *data.arguments, lr=LR, engine=engine)
    assert not any(p.grad_fn or p._backward_hooks for p in model.parameters())


def test_so_it_is_by_one_graph() -> None:
    class Cut(torch.autograd.Function):
        """In the form that transforms of functions take."""

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.tanh()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
            ctx.save_for_backward(output)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return Tanh.backward(ctx, g).detach()

    model, data = layered(Cut), Data()
    with pytest.raises(ValueError, match="Cut returns a gradient without its graph"):
        core.hypergradient(model, *data.arguments, lr=LR, engine="compiled")


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
def test_parts_compiled_by_jit_are_refused_in_forward_mode_alone() -> None:
    plain, data = network(nn.Sequential(nn.Linear(8, 8), nn.Tanh())), Data()
    truth = slope(plain, data, CASE)
    model = nn.Sequential(plain[0], torch.jit.script(plain[1]), plain[2])
    for _ in range(3):  # it was wrong from the second time on
        assert error(model, data, CASE, "auto", truth) < 1e-6
        with pytest.raises(ValueError, match=r'torch\.jit .*use engine="auto"'):
            core.hypergradient(model, *data.arguments, lr=LR, engine="forward_reverse")


@pytest.mark.parametrize("engine", EXACT)
def test_so_is_a_loss_that_has_computed_its_gradient(engine: Any) -> None:
    model, data = network(nn.Tanh()), Data()
    with pytest.raises(ValueError, match=r"Fused returns a gradient without its graph"):
        core.hypergradient(model, *data.arguments, lr=LR, engine=engine, loss=Fused.apply)


@pytest.mark.parametrize("engine", EXACT)
def test_a_loss_that_a_function_scales_is_not(engine: Any) -> None:
    """That the gradient of a number is a constant is right."""
    model, data = network(nn.Tanh()), Data()

    def doubled(logits: Tensor, target: Tensor) -> Tensor:
        return Doubled.apply(core.soft_cross_entropy(logits, target))  # type: ignore[no-any-return]

    value = core.hypergradient(model, *data.arguments, lr=LR, engine=engine, loss=doubled)
    # Twice the loss of both batches: the step is twice as long, and its value counts twice.
    same = core.hypergradient(model, *data.arguments, lr=2 * LR)
    torch.testing.assert_close(value, 2 * same)


def examined(model: nn.Module) -> core.Examination:
    data = Data()
    return core.examine(model, *data.arguments[:2], lr=LR)


def test_an_examination_knows_a_function_that_is_right() -> None:
    report = examined(layered(Tanh))
    assert report.engine == "auto"
    assert all(r.error is None or r.error < 1e-4 for r in report.engines)


def test_an_examination_finds_a_derivative_that_was_computed_early() -> None:
    """Exact engines take what the forward pass has saved for a constant, which no graph shows."""
    report = examined(layered(Early))
    errors = {r.engine: r.error for r in report.engines}
    assert errors["auto"] is not None
    assert errors["auto"] > 1e-2
    assert report.engine == "finite_difference"
    assert {name for f in report.about("engines") for name in f.names} == {"auto", "unroll"}
