"""This module finds the plain module inside what training loops wrap around it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch.distributed as dist
from torch import nn

from core.user_model.logits import LogitsOf, WithLogits
from core.user_model.process_wide import eagerly
from core.user_model.ranks import ALONE, Ranks


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the module under `torch.compile` and `DistributedDataParallel`, in any order.

    Compiled graphs have no double backward, and the reduction of gradients between processes
    belongs to the real step alone.

    Raises:
        ValueError: parameters are split over processes (FSDP, DTensor), the model is wrapped in
            `DataParallel`, or it is no module.
    """
    *_, model = _layers(model)
    kind = type(model).__name__
    if isinstance(model, nn.DataParallel):
        raise ValueError(
            "the model is wrapped in DataParallel, whose replicas have no double backward; pass "
            "its `.module`, or use DistributedDataParallel"
        )
    sharded = dist.is_available() and any(
        hasattr(p, "placements") or hasattr(p, "_sharded_tensor") for p in model.parameters()
    )
    if sharded or "FullyShardedDataParallel" in kind:
        raise ValueError(
            f"the parameters of this {kind} are split over processes, and the meta stage needs "
            "whole ones; use DistributedDataParallel, or learn on an unsharded copy"
        )
    return model


def logits_of(model: nn.Module) -> LogitsOf | None:
    """Returns how the logits are taken from what `unwrap(model)` returns, or None: it is them.

    Raises:
        ValueError: two wrappers say it.
    """
    said = [layer.logits_of for layer in _layers(model) if isinstance(layer, WithLogits)]
    if len(said) > 1:
        raise ValueError(f"logits_of is given twice, as {said[0]!r} and {said[1]!r}; give it once")
    return said[0] if said else None


def ranks_of(model: nn.Module) -> Ranks:
    """Returns the processes that train `model`: those of its `DistributedDataParallel`.

    Raises:
        ValueError: it holds a SyncBatchNorm that synchronizes: in training mode, and among several
            processes. That differentiates once.
    """
    ranks = ALONE
    for layer in _layers(model):
        if isinstance(layer, nn.parallel.DistributedDataParallel):
            ranks = Ranks(layer.process_group)
    for name, module in model.named_modules():
        if isinstance(module, nn.SyncBatchNorm) and _synchronizes(module):
            raise ValueError(
                f"{name!r} is a SyncBatchNorm, which has no double backward; use BatchNorm "
                "(statistics of each rank's own batch), GroupNorm, or put the layer in evaluation "
                "mode"
            )
    return ranks


def _synchronizes(layer: nn.SyncBatchNorm) -> bool:
    """Says whether it exchanges statistics in a forward pass, in a wrapped model or not."""
    running = dist.is_available() and dist.is_initialized()
    return layer.training and running and dist.get_world_size(layer.process_group) > 1


@contextlib.contextmanager
def eager_if_hooked(model: nn.Module, hooked: bool) -> Iterator[None]:
    """Inside, a compiled `model` runs eagerly if `hooked`: its graph does not see new hooks."""
    if not (hooked and _is_compiled(model)):
        yield
        return
    with eagerly():
        yield


def _is_compiled(model: nn.Module) -> bool:
    return any(
        getattr(layer, "_compiled_call_impl", None) is not None or hasattr(layer, "_orig_mod")
        for layer in _layers(model)
    )


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    """Yields the model and what it is wrapped around, down to the plain module."""
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"the model must be a torch.nn.Module, got {type(model).__name__}; put a function of "
            "tensors into a module that holds them as parameters"
        )
    inner: object = model
    while isinstance(inner, nn.Module):
        yield inner
        if isinstance(inner, (WithLogits, nn.parallel.DistributedDataParallel)):
            inner = inner.model if isinstance(inner, WithLogits) else inner.module
        else:
            inner = getattr(inner, "_orig_mod", None)
