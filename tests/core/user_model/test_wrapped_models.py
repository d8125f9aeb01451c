"""The plain module under its wrappers. Wrappers over several processes: test_distributed.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from core.user_model.ranks import ALONE
from core.user_model.wrapped_models import eager_if_hooked, ranks_of, unwrap


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'it'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_plain_module_is_itself() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    assert unwrap(model) is model
    assert ranks_of(model) is ALONE


def test_compile_and_ddp_in_any_order(one_rank: None) -> None:
    for order in (
        [compiled],
        [DistributedDataParallel],
        [compiled, DistributedDataParallel],
        [DistributedDataParallel, compiled],
        [compiled, DistributedDataParallel, compiled],
    ):
        plain = nn.Linear(2, 2)
        model: Any = plain
        for wrap in order:
            model = wrap(model)  # type: ignore[operator]
        assert unwrap(model) is plain
        ranks = ranks_of(model)
        if DistributedDataParallel in order:
            assert ranks.group is dist.group.WORLD
        else:
            assert ranks is ALONE
        assert ranks.size == 1


def test_a_child_named_module_is_no_wrapper() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)

    model = Holder()
    assert unwrap(model) is model
    assert ranks_of(model) is ALONE


def test_the_group_is_that_of_the_wrapper(one_rank: None) -> None:
    group = dist.new_group([0])
    assert ranks_of(DistributedDataParallel(nn.Linear(2, 2), process_group=group)).group is group


def test_data_parallel_is_refused() -> None:
    for model in (nn.DataParallel(nn.Linear(2, 2)), compiled(nn.DataParallel(nn.Linear(2, 2)))):
        with pytest.raises(
            ValueError, match=r"DataParallel, whose.*pass its `\.module`, or use Dis"
        ):
            unwrap(model)


class FullyShardedDataParallelV1(nn.Module):
    """By its name; the real one needs processes."""


class Sharded(Tensor):
    placements = ()


class OldSharded(Tensor):
    _sharded_tensor = True


@pytest.mark.parametrize("kind", [Sharded, OldSharded])
def test_split_parameters_are_refused(kind: type[Tensor]) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = nn.Parameter(torch.randn(2, 2).as_subclass(kind))
    with pytest.raises(ValueError, match=r"this Sequential are split over processes.*use Distrib"):
        unwrap(model)
    with pytest.raises(ValueError, match="are split over processes"):
        unwrap(FullyShardedDataParallelV1())


def test_sync_batch_norm_alone_is_batch_norm(one_rank: None) -> None:
    model = nn.Sequential(nn.SyncBatchNorm(2))
    assert ranks_of(model) is ALONE
    model.eval()
    assert ranks_of(model) is ALONE


def test_sync_batch_norm_is_refused_where_it_synchronizes(
    one_rank: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def size(group: Any = None) -> int:
        asked.append(group)
        return 2

    monkeypatch.setattr(dist, "get_world_size", size)
    group = dist.group.WORLD
    model = nn.Sequential(nn.Linear(2, 2), nn.SyncBatchNorm(2, process_group=group))
    match = r"'1' is a SyncBatchNorm, which has no double backward; use BatchNorm.*evaluation mode"
    with pytest.raises(ValueError, match=match):
        ranks_of(model)
    assert asked == [group]
    model[1].eval()
    assert ranks_of(model) is ALONE


class Net(nn.Module):
    """No class of torch's own, which `Module.compile` leaves as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(x))


def runs_compiled(model: nn.Module, calls: list[str], hooked: bool) -> bool:
    calls.clear()
    with eager_if_hooked(model, hooked):
        model(torch.ones(1, 2))
    return bool(calls)


@pytest.mark.parametrize("wrapped", ["outside", "in place", "inside"])
def test_a_hooked_model_runs_eagerly(wrapped: str, one_rank: None) -> None:
    """Counted by a backend whose code says that it ran."""
    calls: list[str] = []

    def backend(graph: Any, inputs: Any) -> Any:
        def run(*args: Any) -> Any:
            calls.append("compiled")
            return graph(*args)

        return run

    plain = Net()
    model: Any
    if wrapped == "in place":
        plain.compile(backend=backend)
        model = plain
    else:
        model = torch.compile(plain, backend=backend)
        model = DistributedDataParallel(model) if wrapped == "inside" else model
    assert runs_compiled(model, calls, hooked=False)
    assert not runs_compiled(model, calls, hooked=True)
    assert runs_compiled(model, calls, hooked=False)


def test_a_plain_model_is_not_kept_from_anything() -> None:
    model = nn.Linear(2, 2)
    with eager_if_hooked(model, True), torch.no_grad():
        assert model(torch.ones(1, 2)).shape == (1, 2)
