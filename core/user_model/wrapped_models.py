"""This module finds the plain module inside what training loops wrap around it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn

from core.user_model.ranks import ALONE, Ranks


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the module under `torch.compile` and `DistributedDataParallel`, in any order.

    Compiled graphs have no double backward, and the reduction of gradients between processes
    belongs to the real step alone.

    Raises:
        ValueError: parameters are split over processes (FSDP, DTensor), or the model is wrapped in
            `DataParallel`.
    """
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            break
        model = inner
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


def ranks_of(model: nn.Module) -> Ranks:
    """Returns the processes that train `model`: those of its `DistributedDataParallel`.

    Raises:
        ValueError: it holds a SyncBatchNorm that synchronizes: in training mode, and among several
            processes. That differentiates once.
    """
    ranks = ALONE
    inner: object = model
    while isinstance(inner, nn.Module):
        if isinstance(inner, nn.parallel.DistributedDataParallel):
            ranks = Ranks(inner.process_group)
        wrapped = getattr(inner, "_orig_mod", None)
        inner = inner.module if isinstance(inner, nn.parallel.DistributedDataParallel) else wrapped
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
    set_stance = getattr(torch.compiler, "set_stance", None)  # torch 2.6 and later
    if set_stance is None:
        raise ValueError(
            "mixing at a hidden layer needs the plain module, and this torch cannot run a compiled "
            "one eagerly; pass the module before `torch.compile`"
        )
    with set_stance("force_eager"):
        yield


def _is_compiled(model: nn.Module) -> bool:
    inner: object = model
    while isinstance(inner, nn.Module):
        in_place = getattr(inner, "_compiled_call_impl", None) is not None
        if in_place or isinstance(getattr(inner, "_orig_mod", None), nn.Module):
            return True
        parallel = isinstance(inner, nn.parallel.DistributedDataParallel)
        inner = inner.module if parallel else None
    return False
