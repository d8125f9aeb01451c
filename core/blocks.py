"""A network as a sequence of blocks, for meta stages that go through the last of them only."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def blocks(model: nn.Module) -> list[list[str]]:
    """Names of the parameters of each block, in the order in which the modules were defined.

    A block is a child of the model that has parameters; children that are plain containers
    (`nn.Sequential`, `nn.ModuleList`) are opened, as is a model that is the only child of another.
    A `PreActResNet` so gives its stem, its residual blocks, the last BatchNorm and the classifier.
    Parameters that the model holds itself come first, as one block. A tied parameter counts where
    it first appears.
    """
    known = {name for name, _ in model.named_parameters()}
    found = []
    for prefix, module in _walk(model, ""):
        names = [n for n, _ in module.named_parameters(prefix, recurse=True) if n in known]
        found.append(names)
    own = [name for name, _ in model.named_parameters(recurse=False)]
    return [names for names in (own, *found) if names]


def last_blocks(model: nn.Module, count: int) -> set[str]:
    """Names of the parameters of the last `count` of `blocks(model)`.

    Raises:
        ValueError: the model has fewer blocks, or count is below 1.
    """
    found = blocks(model)
    if not 1 <= count <= len(found):
        ends = [names[0].rpartition(".")[0] or names[0] for names in found]
        raise ValueError(
            f"last_blocks must lie in [1, {len(found)}], the blocks of this model "
            f"({', '.join(ends)}); got {count}"
        )
    return {name for names in found[-count:] for name in names}


def _walk(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    children = [
        (name, child)
        for name, child in module.named_children()
        if any(True for _ in child.parameters())
    ]
    for name, child in children:
        path = f"{prefix}.{name}" if prefix else name
        opened = isinstance(child, (nn.Sequential, nn.ModuleList)) or len(children) == 1
        if opened and any(True for _ in child.children()):
            yield from _walk(child, path)
        else:
            yield path, child
