"""This module writes a plan on paper: GPU-hours, time, storage, where cost lies, assumptions."""

from __future__ import annotations

from collections.abc import Sequence

from core.data import DATASETS
from core.lazy import pandas as pd
from hpo.bench.estimate.work import HALVED, META_STAGE_STEP, Table
from hpo.report.markdown import padded_table

RECORD_BYTES = 450
"""Stored record of a training, for each epoch: 67 kB for 150 epochs of `make table2`."""

TRACKING_BYTES = 2900
"""MLflow's database, for each epoch of a training: 23 MB for 54 trainings of 150 epochs."""

CHECKPOINT_BYTES = 2 * 8
"""Checkpoints of a running training, for each parameter: the last one and the one that is being
written, weights and momentum of 4 bytes each."""

_MOST = 5


def plan_report(
    jobs: pd.DataFrame, tables: Sequence[Table], seeds: int, gpus: int, tflops: float
) -> str:
    """Returns the plan as Markdown.

    Args:
        jobs: of all tables, from `hpo.bench.estimate.work.planned_jobs`.
        tables: what is planned.
        seeds: trainings of each cell of a table.
        gpus: how many, one job on each at a time.
        tflops: what one GPU does in training, sustained, in 10^12 FLOPs a second.
    """
    per_hour = tflops * 1e12 * 3600
    spent = jobs.assign(
        trainings=jobs["trainings"] * jobs["count"],
        epochs=jobs["epochs"] * jobs["count"],
        hours=jobs["flops"] * jobs["count"] / per_hour,
    )
    total, longest = spent["hours"].sum(), jobs.loc[jobs["chain"].idxmax()]
    floor = longest["chain"] / per_hour
    wall = max(total / gpus, floor)
    chain = (
        f"{longest['table']}/{longest['column']}/{longest['row']} and what it waits for take "
        f"{floor:,.1f} hours one after another"
    )
    bottleneck = (
        f"{chain}; more GPUs shorten nothing."
        if wall <= floor * 1.001
        else f"the number of GPUs, up to about {max(gpus + 1, round(total / floor)):,}. Below "
        f"{floor:,.1f} hours it cannot come: {chain}."
    )
    parts = [
        _table(spent, ["table"]),
        f"{spent['trainings'].sum():,} trainings, {total:,.0f} GPU-hours, at least {wall:,.1f} "
        f"hours on {gpus} GPUs ({total / gpus / wall:.0%} busy).",
        f"Bottleneck: {bottleneck}",
        "Where the cost lies:",
        _table(spent, ["table", "column"], _MOST),
        _table(spent, ["table", "row"], _MOST),
        "Storage:\n" + "\n".join(f"- {line}" for line in _storage(spent, tables, gpus)),
        "Assumed:\n" + "\n".join(f"- {line}" for line in _assumptions(tables, seeds, tflops)),
    ]
    return "\n\n".join(parts)


def _table(spent: pd.DataFrame, by: list[str], most: int | None = None) -> str:
    """Returns what groups of jobs take together, the costly ones first where not all are shown."""
    groups = spent.groupby(by, sort=False)[["trainings", "epochs", "hours"]].sum()
    if most is not None:
        groups = groups.nlargest(most, "hours")
    lines = [
        (
            " ".join(key) if isinstance(key, tuple) else key,
            f"{trainings:,.0f}",
            f"{epochs:,.0f}",
            f"{hours:,.1f}",
            f"{hours / spent['hours'].sum():.0%}",
        )
        for key, trainings, epochs, hours in groups.itertuples()
    ]
    return padded_table((by[-1], "trainings", "epochs", "GPU-hours", "share"), lines)


def _storage(spent: pd.DataFrame, tables: Sequence[Table], gpus: int) -> list[str]:
    running = spent["parameters"].repeat(spent["count"]).nlargest(gpus).sum()
    epochs = spent["epochs"].sum()
    specs = {DATASETS[t.dataset] for table in tables for t in table.columns.values()}
    pixels = sum(
        (s.train_size + s.test_size) * s.in_channels * s.image_size**2
        for s in specs
        if not s.streamed
    )
    return [
        f"checkpoints of running trainings: {_size(running * CHECKPOINT_BYTES)} at most, on shared "
        "storage; one that has ended keeps none",
        f"records: {_size(epochs * RECORD_BYTES)}, on shared storage",
        f"MLflow's database: {_size(epochs * TRACKING_BYTES)}",
        f"pixels: {_size(pixels)} in the object store of each node; ImageNet stays in its files",
    ]


def _assumptions(tables: Sequence[Table], seeds: int, tflops: float) -> list[str]:
    described = [
        f"{table.name}: {len(table.rows)} rows × {seeds} seeds on "
        + ", ".join(
            f"{label} ({training.model}, {training.epochs} epochs)"
            for label, training in table.columns.items()
        )
        for table in tables
    ]
    return [
        *described,
        f"{tflops:g} TFLOP/s sustained in training on one GPU, a multiplication with its addition "
        "counted as 2; this is a guess, not a measurement: --gpu-tflops replaces it",
        "FLOPs of a plain step: products of matrices and convolutions, counted for each network",
        f"a step with a meta stage, in plain steps: {META_STAGE_STEP:g}, as measured on two CPU "
        "cores by studies/cost.py (by FLOPs 4.33 with equal batches)",
        "a step of a semi-supervised method without one, and AdaMixUp's: counted in samples",
        f"a search by successive halving trains {HALVED:.0%} of its epochs, its trials one after "
        "another; a search with a budget spends all of it",
        "one training on a GPU at a time, every GPU busy unless the longest chain takes longer; "
        "nothing fails, loading data and starting processes take no time",
        f"records take {RECORD_BYTES} bytes and MLflow {TRACKING_BYTES} for each epoch, as on "
        "digits; figures and analyses apart",
        "tables share no training, though some rows are the same",
    ]


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
