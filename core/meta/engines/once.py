"""This module refuses what autograd would get wrong without a word, by a meta stage's graph."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import Node

from core.user_model.wrapped_models import unwrap


def _once(ctx: Any, *slopes: Any) -> None:
    """Is marked, so that the mark can be known again."""


_MARKED = once_differentiable(_once).__code__


def refuse_once_differentiable(gradients: Iterable[Tensor | None]) -> None:
    """Looks for a `once_differentiable` function in the graph of gradients.

    Its backward pass leaves a node that raises when it is run, cut off from the function's inputs.
    A second derivative with respect to given tensors runs only nodes on the way to them, never that
    one: it would miss what goes through the function, without a word.

    Args:
        gradients: made with `create_graph=True`; None is passed over.

    Raises:
        ValueError: there is such a function.
    """
    if any("once_differentiable" in _error(node) for node in nodes(gradients)):
        raise ValueError(
            "the model or the loss uses a function marked once_differentiable, and exact "
            'engines differentiate twice; use engine="finite_difference"'
        )


@contextlib.contextmanager
def refuse_cut_gradients(
    loss: Tensor, follows: Callable[[Tensor], bool] = lambda gradient: gradient.requires_grad
) -> Iterator[None]:
    """Looks for functions of the user's own whose gradients are constants to autograd.

    A backward pass that detaches, writes to an empty tensor as a kernel does, or gives what the
    forward pass has computed, returns the right gradient without its graph. A second derivative
    would miss what goes through the function, without a word.

    Inside, the gradient of the loss is taken. A number's gradient may be a constant, and zeros are
    right as they are: of a function that scales the loss, or rounds. What saves values on the way,
    and multiplies by them, is not seen here; `core.examine` sees it.

    Args:
        loss: the virtual loss, with its graph.
        follows: says whether a gradient is no constant: it has a graph, or in forward mode a
            tangent.

    Raises:
        ValueError: there is such a function.
    """
    cut: set[str] = set()

    def watched(name: str) -> Any:
        def look(inputs: tuple[Tensor | None, ...], _: tuple[Tensor | None, ...]) -> None:
            for gradient in inputs:
                if gradient is not None and gradient.numel() > 1 and not follows(gradient):
                    cut.update([name] if gradient.any() else [])

        return look

    handles = [
        node.register_hook(watched(name)) for node in nodes([loss]) if (name := _users_own(node))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if cut:
        raise ValueError(
            f"the backward pass of {', '.join(sorted(cut))} returns a gradient without its graph "
            "(it detaches, or fills a tensor itself), and exact engines differentiate twice; "
            'use engine="finite_difference"'
        )


def _users_own(node: Any) -> str | None:
    """Returns the name of a function that torch and this package did not write; else None."""
    function = getattr(node, "_forward_cls", None)
    if function is not None:
        ours = function.__module__.partition(".")[0] == __name__.partition(".")[0]
        return None if ours else function.__qualname__
    return str(node.name()) if "CppNode" in node.name() else None


def differentiable_once(loss: Tensor) -> list[str]:
    """Returns the names of functions marked `once_differentiable` in the graph of a loss."""
    functions: set[Any] = {getattr(node, "_forward_cls", None) for node in nodes([loss])}
    return sorted(
        function.__qualname__
        for function in functions - {None}
        if getattr(function.backward, "__code__", None) is _MARKED
    )


def other_parameters(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> list[Tensor]:
    """Returns the parameters that the optimizer holds and the model does not."""
    if optimizer is None:
        return []
    own = {id(p) for p in unwrap(model).parameters()}
    return [p for group in optimizer.param_groups for p in group["params"] if id(p) not in own]


def refuse_other_parameters(
    loss: Tensor,
    theta: Mapping[str, Tensor],
    originals: Mapping[str, Tensor],
    others: Iterable[Tensor] = (),
    *,
    advice: str = "read it from the model inside the loss, by model.named_parameters()",
) -> None:
    """Looks for the parameters in the graph of a virtual loss: it must be of θ.

    The passes of a meta stage run at copies of the parameters. A penalty over parameter objects
    that were collected before would be a constant there, and its share of the derivative missing.

    Args:
        loss: the virtual loss, with its graph.
        theta: copies of the parameters that the virtual step moves, by name.
        originals: all of the model's parameters by name, as the user holds them.
        others: what the optimizer moves besides.
        advice: the way out where the loss reads one of the user's own.

    Raises:
        ValueError: one of the user's own is there, or one of the others, or none of θ.
    """
    names = {id(p): name for name, p in originals.items()}
    outside = {id(p) for p in others}
    moved = {id(p) for p in theta.values()}
    reached = False
    for node in nodes([loss]):
        variable = id(getattr(node, "variable", None))
        reached = reached or variable in moved
        if variable in names:
            raise ValueError(
                f"the loss reads the parameter {names[variable]!r} as an object collected before "
                f"the step, which the step ahead does not move; {advice}"
            )
        if variable in outside:
            shape = list(node.variable.shape)  # type: ignore[attr-defined]
            raise ValueError(
                f"the loss reads a parameter of shape {shape} that the optimizer holds and the "
                "model does not, so a step ahead would leave it where the real one moves it; "
                "make it a parameter of the model (as in an nn.ModuleList in place of a list)"
            )
    if not reached:
        raise ValueError(
            "the loss of the mixed batch does not depend on the parameters that the virtual step "
            "moves: the model or the loss runs under torch.no_grad, detaches, or takes argmax, or "
            "all of the model lies under checkpoint(use_reentrant=True); "
            "give the ones that plain training differentiates, and use_reentrant=False"
        )


def _error(node: Any) -> str:
    """Returns what a node that does nothing but raise would say; nothing for others."""
    if node.name() != "torch::autograd::Error":
        return ""
    try:
        # Other such nodes are torch's own, stay in the graph, and raise if they are reached.
        node(*[torch.zeros(()) for _ in node._input_metadata])
    except RuntimeError as error:
        return str(error)
    return ""


def nodes(tensors: Iterable[Tensor | None]) -> Iterator[Node]:
    """Yields every node of the graph behind the tensors, once."""
    stack: list[Node | None] = [t.grad_fn for t in tensors if t is not None]
    seen: set[Node] = set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        stack.extend(following for following, _ in node.next_functions)
