"""Contenders take a training step on the bench: plain MixUp, the engines, options, peers.

A cheaper mode is added to the table by one entry in `OPTIONS`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

import core
from core.meta.engines import ENGINES
from hpo.bench.cost.bench import READING, Bench
from hpo.bench.cost.peers import PACKAGES, PEERS

Kind = Literal["vanilla", "engine", "option", "peer", "loop", "fit"]
Step = Callable[[], None]
VANILLA = "vanilla"


@dataclass(frozen=True)
class Contender:
    """A contender is one way to take a training step.

    Attributes:
        name: unique in the table.
        kind: "vanilla" is the unit of the others.
        build: from the bench, a function that takes one whole training step.
        hypergradient: from the bench, d(meta loss)/d(lam) [B] at its `lam` and `partner`; None
            where there is none to compare.
        every: what it does repeats after so many steps: they are timed together and divided.
    """

    name: str
    kind: Kind
    build: Callable[[Bench], Step]
    hypergradient: Callable[[Bench], Tensor] | None = None
    every: int = 1


def contenders(names: Iterable[str] | None = None) -> list[Contender]:
    """Returns those of the names, or all, in the table's order, plain MixUp always the first.

    Raises:
        ValueError: a name is unknown.
    """
    table = [
        Contender(VANILLA, "vanilla", _vanilla),
        *(_ours(name, "engine", engine=name) for name in ("auto", *ENGINES)),
    ]
    table += [*OPTIONS.values(), *map(_peer, PEERS)]
    if names is None:
        return table
    wanted = {VANILLA, *names}
    unknown = wanted - {contender.name for contender in table}
    if unknown:
        known = ", ".join(contender.name for contender in table)
        raise ValueError(f"unknown contender {sorted(unknown)[0]!r}; choose among {known}")
    return [contender for contender in table if contender.name in wanted]


def peer_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Returns the installed version of each peer among the names; None of a missing one."""
    versions: dict[str, str | None] = {}
    for name in names:
        if name in PACKAGES:
            try:
                versions[name] = importlib.metadata.version(PACKAGES[name])
            except importlib.metadata.PackageNotFoundError:
                versions[name] = None
    return versions


def _vanilla(bench: Bench) -> Step:
    return lambda: bench.real_step(*bench.draw())


def _ours(name: str, kind: Kind, **options: Any) -> Contender:
    """Returns `core.metamixup_step` with these options, and its hypergradient."""
    return Contender(
        name,
        kind,
        lambda bench: _metamixup(bench, **options),
        lambda bench: bench.hypergradient(**options),
    )


def _peer(name: str) -> Contender:
    def step_with(bench: Bench) -> Step:
        ask = PEERS[name](bench)

        def step() -> None:
            lam, partner = bench.draw()
            start = READING.start(lam)
            virtual = READING.virtual(start)
            moved = READING.move(start, virtual, ask(virtual, partner))
            bench.real_step(READING.final(moved), partner, lam)

        return step

    return Contender(
        name, "peer", step_with, lambda bench: PEERS[name](bench)(bench.lam, bench.partner)
    )


def _metamixup(bench: Bench, **options: Any) -> Step:
    """Returns `core.metamixup_step` on the bench, with these options."""

    def step() -> None:
        core.metamixup_step(
            bench.model,
            bench.optimizer,
            bench.batch,
            bench.val_batch,
            reading=READING,
            generator=bench.generator,
            autocast=bench.autocast,
            **options,
        )

    return step


def _quarter(bench: Bench) -> Bench:
    return bench.with_meta_batch(max(1, len(bench.val_batch[1]) // 4))


def _refreshed(every: int) -> Contender:
    """Returns one whose steps share an object; how far a gradient of before is off depends on the
    training."""

    def build(bench: Bench) -> Step:
        return _metamixup(bench, validation_gradient=core.ValidationGradient(every))

    return Contender(f"validation_gradient_every_{every}", "option", build, every=every)


def _amortised(every: int) -> Contender:
    def build(bench: Bench) -> Step:
        policy = core.Amortised(core.Learned(READING), every=every)

        def step() -> None:
            with bench.autocast_region():
                given = policy(
                    bench.model,
                    bench.optimizer,
                    bench.batch,
                    bench.val_batch,
                    generator=bench.generator,
                )
            bench.real_step(given.lam, given.partner, given.lam_init)

        return step

    return Contender(f"amortised_{every}", "option", build, every=every)


OPTIONS: Mapping[str, Contender] = {
    option.name: option
    for option in (
        Contender(
            "quarter_meta_batch",
            "option",
            lambda bench: _metamixup(_quarter(bench)),
            lambda bench: _quarter(bench).hypergradient(),
        ),
        *(_ours(f"last_{n}_blocks", "option", last_blocks=n) for n in (1, 2, 4)),
        _refreshed(4),
        _amortised(4),
        _amortised(16),
    )
}
"""Cheaper modes, by name; each a `Contender` of kind "option"."""
