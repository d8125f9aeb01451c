"""This module tries what people bring, and makes a row of each try."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

import core
from core.meta import EngineResult
from hpo.bench.compatibility.layers import LAYERS
from hpo.bench.compatibility.losses import LOSSES, LossCase
from hpo.bench.compatibility.networks import NETWORKS
from hpo.bench.compatibility.optimizers import OPTIMIZERS
from hpo.bench.compatibility.truth import Data, MakeOptimizer, error, network, sgd, slope, warm

ENGINES = ("auto", "unroll", "forward_reverse", "finite_difference")

RIGHT = {"network": 1e-2, "layer": 1e-6, "loss": 1e-6, "optimizer": 1e-6}
"""What is nearer to plain training is right. A ReLU of thousands may switch within a difference."""

SAMPLES = 4
"""Of a network's training batch, and of its validation batch."""

LIMIT = 4.0
"""Seconds after which no further engine is tried on a network: of large ones "auto" alone."""


@dataclass(frozen=True)
class Row:
    """This is one try: what was brought, the engine, and what came of it.

    Attributes:
        kind: one of `KINDS`.
        name: what was brought.
        engine: one of `ENGINES`.
        result: "right", "wrong" (far from plain training), "approximate" (far, by an engine that
            claims no more), "refused", "not tried" or "not compared".
        error: distance to central differences of plain training, over what it could be at most.
        text: the refusal; for a network without one, what `core.examine` found.
        times, memory: of a network's meta stage, over those of a plain step.
    """

    kind: str
    name: str
    engine: str
    result: str
    error: float | None = None
    text: str = ""
    times: float | None = None
    memory: float | None = None


def tried(kind: str) -> Iterator[Row]:
    """Yields the rows of one kind, an engine each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's words about layers of every age
        if kind == "network":
            for name in NETWORKS:
                yield from _examined(name)
        elif kind == "layer":
            for name, make in LAYERS.items():
                yield from _held(kind, name, make, LOSSES["F.cross_entropy"], sgd)
        elif kind == "loss":
            for name, case in LOSSES.items():
                yield from _held(kind, name, nn.Tanh, case, sgd)
        else:
            for name, optimizer in OPTIMIZERS.items():
                yield from _held(kind, name, nn.Tanh, LOSSES["F.cross_entropy"], optimizer)


def _held(
    kind: str, name: str, make: Callable[[], nn.Module], case: LossCase, optimizer: MakeOptimizer
) -> Iterator[Row]:
    """Yields rows held against plain training with that optimizer, three steps old."""
    torch.manual_seed(0)
    data = Data()
    model = network(make())
    inner = warm(model, data, optimizer) if kind == "optimizer" else None
    truth = slope(model, data, case, optimizer, inner)
    for engine in ENGINES:
        try:
            off = error(model, data, case, engine, truth, inner)
        except ValueError as refusal:
            yield Row(kind, name, engine, "refused", text=_line(str(refusal)))
        else:
            yield Row(kind, name, engine, _verdict(kind, engine, off), off)


def _examined(name: str) -> Iterator[Row]:
    """Yields rows of a network of torchvision as `core.examine` finds them."""
    torch.manual_seed(0)
    case = NETWORKS[name]
    side, model = case.side, case.make(name).double()
    x, y = torch.randn(2 * SAMPLES, 3, side, side).double(), torch.arange(2 * SAMPLES)
    report = core.examine(
        model,
        (x[:SAMPLES], y[:SAMPLES]),
        (x[SAMPLES:], y[SAMPLES:]),
        lr=1e-4,
        logits_of=case.logits_of,
        seconds=LIMIT,
    )
    findings = "; ".join(f"{f.subject}: {', '.join(f.names)}" for f in report.findings)
    for engine, result in zip(ENGINES, sorted(report.engines, key=_place), strict=False):
        verdict, text = _verdict("network", engine, result.error), findings
        if result.refusal is not None:
            verdict = "not tried" if result.refusal.startswith("not tried") else "refused"
            text = _line(result.refusal)
        yield Row("network", name, engine, verdict, result.error, text, result.times, result.memory)


def _place(result: EngineResult) -> int:
    return ENGINES.index(result.engine) if result.engine in ENGINES else len(ENGINES)


def _verdict(kind: str, engine: str, error: float | None) -> str:
    if error is None:
        return "not compared"
    if error < RIGHT[kind]:
        return "right"
    return "approximate" if engine == "finite_difference" else "wrong"


def _line(text: str) -> str:
    return " ".join(text.split())
