"""Refusal of functions that are differentiable once, where autograd would be silently wrong."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.autograd.graph import Node


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
    stack: list[Node | None] = [g.grad_fn for g in gradients if g is not None]
    seen: set[Node] = set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::Error":
            raise ValueError(
                "the model or the loss uses a function marked once_differentiable, and exact "
                'engines differentiate twice; use engine="finite_difference"'
            )
        stack.extend(following for following, _ in node.next_functions)
