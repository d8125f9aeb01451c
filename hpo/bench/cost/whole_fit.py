"""This module times whole epochs of a training, evaluation included, beside a plain loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import torch

from core.data import Source, source_from_arrays
from core.policies import Beta, LearnedConfig, PolicyConfig
from core.training.config import MemoryFormat
from core.training.fit import reproducible
from core.training.training import Training
from core.user_model.precision import PrecisionName, check_precision
from hpo.bench.cost import timing
from hpo.bench.cost.bench import Case, Setting
from hpo.bench.cost.contenders import Kind
from hpo.bench.cost.earlier import earlier_epochs
from hpo.bench.cost.measure import machine, reason, synchronize
from hpo.bench.cost.plain_loop import plain_epochs
from hpo.bench.cost.presets import FIT
from hpo.bench.cost.records import Group, Measurement

STEPS = 8
"""Steps of an epoch."""


@dataclass(frozen=True)
class Row:
    """A row is one way to train: by a plain loop, where there is no policy, or by `fit`.

    Attributes:
        before: a working tree whose code trains; None: that of now.
    """

    policy: PolicyConfig | None
    precision: PrecisionName = "float32"
    memory_format: MemoryFormat = "contiguous"
    before: Path | None = None

    @property
    def kind(self) -> Kind:
        """Says which of the two it is."""
        return "loop" if self.policy is None else "fit"

    @property
    def name(self) -> str:
        """Says what differs from a plain loop in float32: "fit-bf16-channels_last"; "fit-of-TREE"
        of code of before."""
        base = "loop" if self.policy is None else "metamixup" if self.policy.learns else FIT
        if self.before is not None:
            return f"{base}-of-{self.before.name}"
        chosen = (self.precision, self.memory_format)
        return "-".join([base, *(v for v in chosen if v not in ("float32", "contiguous"))])


def rows(device: str, before: Path | None = None) -> list[Row]:
    """Returns those that the device computes, the plain loop in float32 first: it is the unit.

    Those of code of before, in a working tree, come last.
    """
    policies = (Beta(1.0), LearnedConfig())
    precisions: tuple[PrecisionName, ...] = ("float32", "bf16", "fp16")
    formats: tuple[MemoryFormat, ...] = ("contiguous", "channels_last")
    table = [Row(None), Row(None, "bf16", "channels_last")]
    table += [Row(*key) for key in product(policies, precisions, formats)]
    table = [row for row in table if _computes(row.precision, device)]
    return table + [Row(policy, before=before) for policy in policies if before is not None]


def measure_fit(
    case: Case,
    setting: Setting,
    source: Source,
    *,
    before: Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Group:
    """Times an epoch of each row in turns, after one that is not timed. One that raises says why.

    Args:
        case: network, images, B and M; M meta-validation images are evaluated after each epoch.
        setting: device, threads and rounds; precision and memory format are those of the rows.
        source: whose images are used.
        before: a working tree of an earlier commit, whose code takes part.
        clock: seconds; `time.process_time` where other work disturbs the wall clock, and nothing
            of before takes part.
    """
    images = resized(case, source)
    table = rows(setting.device, before)
    errors: dict[str, str] = {}

    def failed(name: str, error: Exception) -> None:
        errors[name] = reason(error)

    with (
        reproducible(setting.seed, device=setting.device, threads=setting.threads),
        ExitStack() as begun,
    ):
        steps: dict[str, timing.Step] = {}
        for row in table:
            epochs = _epochs(row, case, setting, images)
            begun.callback(epochs.close)
            try:
                next(epochs)
                steps[row.name] = partial(next, epochs)
            except Exception as error:  # the others are measured all the same
                failed(row.name, error)
        seconds = timing.interleaved(
            steps,
            rounds=setting.repeats,
            seed=setting.seed,
            every=dict.fromkeys(steps, 1),
            before=lambda: None,
            synchronize=synchronize(torch.device(setting.device)),
            on_error=failed,
            clock=clock,
        )
    measured = (
        Measurement(
            row.name,
            row.kind,
            seconds=tuple(seconds.get(row.name, ())),
            error=errors.get(row.name),
        )
        for row in table
    )
    parameters = sum(p.numel() for p in case.network(images.num_classes).parameters())
    return Group(case, setting, parameters, machine(setting), tuple(measured))


def resized(case: Case, source: Source) -> Source:
    """Returns so many images of the source as an epoch needs, at the case's size and channels."""
    parts = []
    for part, count in (
        ("train", STEPS * case.batch_size + case.meta_batch_size),
        ("test", case.meta_batch_size),
    ):
        images = source.images(part)  # type: ignore[arg-type]
        pixels, labels = next(images.batches([torch.arange(count) % len(images)]))
        x = case.shaped(pixels.float())
        parts += [x.round().to(torch.uint8).numpy(), labels.numpy()]
    train_x, train_y, test_x, test_y = parts
    return source_from_arrays(source.name, train_x, train_y, test_x, test_y, source.classes)


def _epochs(
    row: Row, case: Case, setting: Setting, source: Source
) -> Generator[object, None, None]:
    """Yields after each epoch of one training."""
    epochs = setting.repeats + 1
    if row.policy is not None:
        config = case.training(
            setting,
            row.policy,
            epochs=epochs,
            precision=row.precision,
            memory_format=row.memory_format,
        )
        if row.before is not None:
            device, threads = setting.device, setting.threads
            yield from earlier_epochs(row.before, config, source, device=device, threads=threads)
            return
        training = Training(config, source, setting.device)
        for _ in range(epochs):
            yield training.epoch()
        return
    model = case.network(source.num_classes).to(setting.device)
    if row.memory_format == "channels_last":
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.from_numpy(source.train_data).to(setting.device)
    y = torch.from_numpy(source.train_labels).to(setting.device)
    held = case.meta_batch_size
    yield from plain_epochs(
        model,
        x[held:],
        y[held:],
        x[:held],
        epochs=epochs,
        batch=case.batch_size,
        bf16=row.precision == "bf16",
    )


def _computes(precision: PrecisionName, device: str) -> bool:
    try:
        check_precision(precision, device)
    except ValueError:
        return False
    return True
