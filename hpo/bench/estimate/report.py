"""A plan on paper as text: GPU-hours, wall time, storage, where the cost lies, what is assumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from core.data import DATASETS
from hpo.bench.estimate.on_paper import (
    HALVED,
    META_STAGE_STEP,
    META_STAGE_STEP_ELSE,
    RECORD_BYTES,
    TRACKING_BYTES,
    Column,
    Job,
    Table,
)
from hpo.bench.estimate.schedule import chains, makespan
from hpo.report.markdown import padded_table

CHECKPOINT_COPIES = 2
"""Of a training's checkpoint while it runs: the last one and the one that is being written."""

_MOST = 5


def plan_report(
    jobs: Sequence[Job], tables: Sequence[Table], seeds: int, gpus: int, tflops: float
) -> str:
    """The plan as Markdown.

    Args:
        jobs: of all tables.
        tables: what was planned.
        seeds: trainings of each cell of a table.
        gpus: how many, one job on each at a time.
        tflops: what one GPU does in training, sustained, in 10^12 FLOPs a second.
    """
    timed = [job.timed(tflops * 1e12) for job in jobs]
    hours = {job.key: time.seconds / 3600 for job, time in zip(jobs, timed, strict=True)}
    total = sum(hours.values())
    wall = makespan(timed, gpus) / 3600
    lengths = chains(timed)
    longest = max(lengths, key=lambda key: lengths[key])
    floor = lengths[longest] / 3600
    parts = [
        _table("table", jobs, hours, lambda job: job.table),
        f"{sum(job.trainings for job in jobs):,} trainings, {total:,.0f} GPU-hours, "
        f"{wall:,.1f} hours on {gpus} GPUs ({total / gpus / wall:.0%} busy).",
        _bottleneck(longest, floor, total, wall, gpus),
        "Where the cost lies:\n\n"
        + _table("column", jobs, hours, lambda job: f"{job.table} {job.column}", _MOST),
        _table("row", jobs, hours, lambda job: f"{job.table} {job.row}", _MOST),
        "Storage:\n" + "\n".join(f"- {line}" for line in _storage(jobs, tables, gpus)),
        "Assumed:\n" + "\n".join(f"- {line}" for line in _assumptions(tables, seeds, tflops)),
    ]
    return "\n\n".join(parts)


def _table(
    name: str,
    jobs: Sequence[Job],
    hours: dict[str, float],
    group: Callable[[Job], str],
    most: int | None = None,
) -> str:
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(group(job), []).append(job)
    spent = {key: sum(hours[job.key] for job in members) for key, members in groups.items()}
    shown = list(groups)
    if most is not None:
        shown = sorted(groups, key=lambda key: -spent[key])[:most]
    total = sum(spent.values())
    lines = [
        (
            key,
            f"{sum(job.trainings for job in groups[key]):,}",
            f"{sum(job.epochs for job in groups[key]):,.0f}",
            f"{spent[key]:,.1f}",
            f"{spent[key] / total:.0%}",
        )
        for key in shown
    ]
    return padded_table((name, "trainings", "epochs", "GPU-hours", "share"), lines)


def _bottleneck(longest: str, floor: float, total: float, wall: float, gpus: int) -> str:
    chain = f"{longest} and what waits for it take {floor:,.1f} hours"
    if wall <= floor * 1.001:
        return f"Bottleneck: {chain} one after another; more GPUs shorten nothing."
    enough = max(gpus + 1, round(total / floor))
    return (
        f"Bottleneck: the number of GPUs, up to about {enough:,}. Below {floor:,.1f} hours it "
        f"cannot come: {chain} one after another."
    )


def _storage(jobs: Sequence[Job], tables: Sequence[Table], gpus: int) -> list[str]:
    running = sorted((job.parameters for job in jobs), reverse=True)[:gpus]
    # Weights and momentum, 4 bytes each.
    checkpoints = sum(running) * 8 * CHECKPOINT_COPIES
    epochs = sum(job.epochs for job in jobs)
    specs = {DATASETS[c.training.dataset] for table in tables for c in table.columns}
    pixels = sum(
        (s.train_size + s.test_size) * s.in_channels * s.image_size**2
        for s in specs
        if not s.streamed
    )
    return [
        f"checkpoints of running trainings: {_size(checkpoints)} at most, on shared storage; one "
        "that has ended keeps none",
        f"records: {_size(epochs * RECORD_BYTES)}, on shared storage",
        f"MLflow's database: {_size(epochs * TRACKING_BYTES)}",
        f"pixels: {_size(pixels)} in the object store of each node; ImageNet stays in its files",
    ]


def _assumptions(tables: Sequence[Table], seeds: int, tflops: float) -> list[str]:
    meta = ", ".join(f"{name} {value:g}" for name, value in META_STAGE_STEP.items())
    described = [
        f"{table.name}: {len(table.rows)} rows × {seeds} seeds on "
        + ", ".join(f"{column.label} ({_trained(column)})" for column in table.columns)
        for table in tables
    ]
    return [
        *described,
        f"{tflops:g} TFLOP/s sustained in training on one GPU, a multiplication with its addition "
        "counted as 2; this is a guess, not a measurement: --gpu-tflops replaces it",
        "FLOPs of a plain step: products of matrices and convolutions, counted for each network",
        f"a step with a meta stage, in plain steps: {META_STAGE_STEP_ELSE:g} ({meta}), as measured "
        "on two CPU cores by studies/cost.py (by FLOPs 4.33 with equal batches)",
        "a step of a semi-supervised method without one, and AdaMixUp's: counted in samples",
        f"a search by successive halving trains {HALVED:.0%} of its epochs, its trials one after "
        "another; a search with a budget spends all of it",
        "one training on a GPU at a time, longest chain first; nothing fails, loading data and "
        "starting processes take no time",
        f"records take {RECORD_BYTES} bytes and MLflow {TRACKING_BYTES} for each epoch, as on "
        "digits; figures and analyses apart",
        "tables share no training, though some rows are the same",
    ]


def _trained(column: Column) -> str:
    model = column.training.model
    epochs = f"{column.training.epochs} epochs"
    return epochs if model in column.label else f"{model}, {epochs}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
