"""This module cuts a network into blocks, for meta stages through the last of them only."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral

from torch import nn


def blocks(model: nn.Module) -> list[list[str]]:
    """Returns the names of each block's parameters, in the order in which modules were defined.

    A block is a child of the model that has parameters. Children that are plain containers
    (`nn.Sequential` and `nn.ModuleList` themselves) are opened, and so is a child that is all of
    the model, or of such a child. A `PreActResNet` so gives its stem, its residual blocks and the
    classifier. Parameters that an opened module holds itself come before its children, as one
    block. A tied parameter counts where it first appears.

    Examples:
        >>> import torch, core
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
        >>> core.blocks(net)
        [['0.weight', '0.bias'], ['2.weight', '2.bias']]
    """
    known = {name for name, _ in model.named_parameters()}  # of a tied one, its first name
    walk = _walk(model, "", whole=True)
    named = ([name for name in names if name in known] for names in walk)
    return [names for names in named if names]


def last_blocks(model: nn.Module, count: int) -> set[str]:
    """Returns the names of the parameters of the last `count` of `blocks(model)`.

    Raises:
        ValueError: the model has fewer blocks, or count is below 1.
    """
    every = blocks(model)
    if not isinstance(count, Integral) or not 1 <= count <= len(every):
        ends = [names[0].rpartition(".")[0] or names[0] for names in every]
        raise ValueError(
            f"last_blocks must lie in [1, {len(every)}], the blocks of this model "
            f"({', '.join(ends)}); got {count!r}"
        )
    return {name for names in every[-count:] for name in names}


def _walk(module: nn.Module, prefix: str, *, whole: bool) -> Iterator[list[str]]:
    """Yields names by block, from a module that is opened; `whole`: it is all of the model."""
    yield [name for name, _ in module.named_parameters(prefix, recurse=False)]
    children = [
        (f"{prefix}.{name}" if prefix else name, child)
        for name, child in module.named_children()
        if any(True for _ in child.parameters())
    ]
    whole = whole and len(children) == 1
    for path, child in children:
        if whole or type(child) in (nn.Sequential, nn.ModuleList):
            yield from _walk(child, path, whole=whole)
        else:
            yield [name for name, _ in child.named_parameters(path)]
