"""Steps without end: nothing piles up, and nothing waits for the garbage collector."""

from __future__ import annotations

import gc
import resource
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.meta.reading import Reading
from core.meta.validation_gradient import ValidationGradient
from core.metamixup import metamixup_step
from core.mixing.area import AreaMixing
from core.mixing.hidden import HiddenMixing
from core.mixing.real_step import mixed_step
from core.policies.amortised import Amortised
from core.policies.learned import Learned
from core.policies.persistent_scores import PersistentScores

CHANNELS, WIDTH, SIDE, CLASSES, N = 2, 8, 12, 3, 12

STEPS, WARM = 200, 100
BOUND = 2 * 2**20
"""Growth allowed over the last 100 steps. One activation kept at each step were 5 MiB; one λ, of
48 bytes and the object around it, is for the count to see."""

Step = Callable[[], object]


def setting(**options: Any) -> SimpleNamespace:
    """Returns a network with BatchNorm and dropout, an optimizer with state, batches drawn anew."""
    net = nn.Sequential(
        nn.Conv2d(CHANNELS, WIDTH, 3, padding=1),
        nn.BatchNorm2d(WIDTH),
        nn.Tanh(),
        nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(WIDTH, CLASSES),
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)

    def batches() -> dict[str, Any]:
        x, y = torch.randn(2 * N, CHANNELS, SIDE, SIDE), torch.randint(CLASSES, (2 * N,))
        return {"batch": (x[:N], y[:N]), "val_batch": (x[N:], y[N:])}

    def step() -> object:
        return metamixup_step(net, optimizer, **batches(), **options)

    return SimpleNamespace(net=net, optimizer=optimizer, batches=batches, step=step)


def of_engine(engine: str, **options: Any) -> Callable[[], Step]:
    return lambda: setting(engine=engine, **options).step


def of_policy(make: Callable[[], Any]) -> Callable[[], Step]:
    def build() -> Step:
        case, policy = setting(), make()

        def step() -> object:
            given = case.batches()
            indices = torch.randint(100, (N,))
            interpolation = policy(case.net, case.optimizer, **given, indices=indices)
            return mixed_step(case.net, case.optimizer, given["batch"], interpolation)

        return step

    return build


LONG = {
    "auto": of_engine("auto"),
    "forward_reverse": of_engine("forward_reverse"),
    "scores": of_policy(lambda: PersistentScores(every=2)),
}
"""The graphs of torch that there are, in reverse and in forward mode, and what grows by design."""

SHORT = {
    **LONG,
    "finite_difference": of_engine("finite_difference"),
    "validation_gradient": of_policy(lambda: Learned(validation_gradient=ValidationGradient(4))),
    "amortised": of_policy(lambda: Amortised(every=4)),
    "unroll": of_engine("unroll"),
    "optimizer": of_engine("auto", reading=Reading(inner_step="optimizer", meta_steps=2)),
    "area": of_engine("auto", mixing=AreaMixing()),
    "hidden": of_engine("auto", mixing=HiddenMixing("2")),
    "last_blocks": of_engine("auto", last_blocks=1),
    "clipped": of_engine("auto", clip_grad_norm=1.0),
}


def tensors() -> int:
    # By type: some objects of torch warn when they are asked for their class.
    return sum(issubclass(type(o), Tensor) for o in gc.get_objects())


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.fixture(autouse=True)
def _without_what_others_left() -> None:
    """The collector sees what is made from here on: in a large process that alone takes seconds."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", LONG)
def test_hundreds_of_steps_do_not_grow(kind: str) -> None:
    step = LONG[kind]()
    counts, sizes = set(), []
    for i in range(STEPS):
        step()
        if i >= WARM and (i + 1) % 50 == 0:
            gc.collect()
            counts.add(tensors())
            sizes.append(resident())
    assert len(counts) == 1
    assert max(sizes) - sizes[0] < BOUND


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("kind", SHORT)
def test_no_cycle_is_left_for_the_collector(kind: str) -> None:
    step = SHORT[kind]()
    for _ in range(8):  # two rounds of the policies
        step()
    gc.collect()
    before = tensors()
    for _ in range(8):
        step()
    assert tensors() == before
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        kinds = [type(o) for o in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert [k for k in kinds if k.__module__.split(".")[0] in ("torch", "core", "higher")] == []


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("kind", SHORT)
def test_intermediate_results_die_with_the_step(kind: str) -> None:
    """Activations of every pass, and the tensors of θ′, by weak references."""
    references: list[weakref.ref[Tensor]] = []

    def watch(module: nn.Module, args: Any, out: Any) -> None:
        met = (out, *args, *module._parameters.values())
        references.extend(weakref.ref(t) for t in met if isinstance(t, Tensor))

    step = SHORT[kind]()
    step()
    handle = torch.nn.modules.module.register_module_forward_hook(watch)
    try:
        result = step()
    finally:
        handle.remove()
    assert len(references) > 20
    alive = [t for t in (reference() for reference in references) if t is not None]
    assert all(isinstance(t, nn.Parameter) for t in alive)
    assert result is not None  # what the step returns holds none of it
