"""AdaMixUp over training: the region of λ, what the discriminator recognises, what both cost.

Reads the history of stored records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from core.policies import AdaMixUpConfig
from hpo.analyses.adamixup.figure import CHANCE, figure
from hpo.cells.record import CellRecord
from hpo.report.markdown import number, padded_table
from hpo.report.outcome import Extra, Outcome
from hpo.report.statistics import MeanInterval, mean_interval
from hpo.report.study_figure import save_figure
from hpo.storage.atomic import write_atomically

STATISTICS = (
    "region_low",
    "region_high",
    "region_spread",
    "discriminator_loss",
    "discriminator_accuracy",
    "discriminator_held_out",
)
"""Of an epoch's metrics; see `core.AdaMixUp.metrics` and `core.AdaMixUp.held_out_metrics`."""

COLUMNS = ("dataset", "method", "seed", "epoch", *STATISTICS)
"""Of the CSV. Empty are the last three without a discriminator, the last also where the
meta-validation images train too, and of a region that is not learned the first three."""

_HEADER = (
    "method",
    "region, first epoch",
    "last epoch",
    "spread",
    "training images (%)",
    "held-out images (%)",
    "n",
    "own parameters",
)


def adamixup_report(outcome: Outcome) -> Extra:
    """`STUDY-adamixup.csv` and `.png`, a table of the first and last epoch, and its numbers for the
    summary runs.

    Empty where no training was one of AdaMixUp.
    """
    records = _records(outcome)
    if not records:
        return Extra()
    frame = statistics(records)
    labels = {row.row.key: row.row.label for row in outcome.plan.rows}
    csv, picture = (
        outcome.output / f"{outcome.plan.study}-adamixup.{kind}" for kind in ("csv", "png")
    )
    outcome.output.mkdir(parents=True, exist_ok=True)
    write_atomically(csv, frame.round(6).to_csv(index=False, lineterminator="\n"))
    save_figure(figure(frame, labels), picture)
    parts, metrics = ["## AdaMixUp"], {}
    keys = dict.fromkeys((record.cell.dataset, record.cell.method) for record in records)
    datasets = list(dict.fromkeys(dataset for dataset, _ in keys))
    for dataset in datasets:
        lines = []
        for method in [m for d, m in keys if d == dataset]:
            own = [r for r in records if (r.cell.dataset, r.cell.method) == (dataset, method)]
            found = _ends(frame[(frame["dataset"] == dataset) & (frame["method"] == method)])
            metrics[method, dataset] = {
                name: interval.mean for name, interval in found.items() if name in STATISTICS
            }
            lines.append(_cells(labels[method], found, own))
        parts += [f"### {dataset}"] if len(datasets) > 1 else []
        parts.append(padded_table(_HEADER, lines))
    parts.append(_legend(csv.name, picture.name))
    return Extra("\n\n".join(parts), [csv, picture], metrics)


def statistics(records: Sequence[CellRecord]) -> pd.DataFrame:
    """One line for each epoch of each training, in the order given; see COLUMNS.

    Args:
        records: finished trainings of AdaMixUp.
    """
    lines: list[dict[str, Any]] = [
        {
            "dataset": record.cell.dataset,
            "method": record.cell.method,
            "seed": record.cell.seed,
            "epoch": int(metrics["epoch"]),
            **{name: metrics.get(name) for name in STATISTICS},
        }
        for record in records
        for metrics in record.result["history"]
    ]
    return pd.DataFrame(lines, columns=list(COLUMNS)).astype(dict.fromkeys(STATISTICS, float))


def _records(outcome: Outcome) -> list[CellRecord]:
    """Finished trainings of AdaMixUp, in the order of the study's data sets, rows and seeds."""
    order = [row.row.key for row in outcome.plan.rows]
    datasets = list(outcome.plan.datasets)
    found = [
        record
        for record in outcome.records
        if record.status == "finished"
        and record.cell.purpose == "final"
        and isinstance(record.cell.training.policy, AdaMixUpConfig)
    ]
    return sorted(
        found,
        key=lambda r: (datasets.index(r.cell.dataset), order.index(r.cell.method), r.cell.seed),
    )


def _ends(frame: pd.DataFrame) -> dict[str, MeanInterval]:
    """Of one method and data set, over seeds: STATISTICS in the last epoch, and with "first_"
    before the name in the first."""
    found = {}
    for start, epoch in (("first_", frame["epoch"].min()), ("", frame["epoch"].max())):
        here = frame[frame["epoch"] == epoch]
        for name in STATISTICS:
            found[start + name] = mean_interval(list(here[name].dropna()))
    return found


def _cells(
    label: str, found: Mapping[str, MeanInterval], records: Sequence[CellRecord]
) -> tuple[str, ...]:
    result = records[0].result
    share = result["policy_parameters"] / result["parameters"]
    return (
        label,
        _region(found["first_region_low"], found["first_region_high"]),
        _region(found["region_low"], found["region_high"]),
        number(found["region_spread"].mean, "{:.3f}"),
        _accuracy(found["discriminator_accuracy"]),
        _accuracy(found["discriminator_held_out"]),
        str(len(records)),
        f"{result['policy_parameters']:,} ({share:.2f}×)",
    )


def _region(low: MeanInterval, high: MeanInterval) -> str:
    told = number(low.mean, "[{:.3f}, ")
    return f"{told}{high.mean:.3f}]" if low.n else told


def _accuracy(found: MeanInterval) -> str:
    half = number(found.high - found.mean, " ± {:.1f}", missing="")
    return number(found.mean, "{:.1f}") + half


def _legend(csv: str, picture: str) -> str:
    return "\n".join(
        [
            "- region: means of a and a + b, λ being drawn between them; [0.333, 0.667] before "
            "training. spread: standard deviation of the regions' middles over the pairs of a "
            "batch, last epoch; 0 where all pairs have one region.",
            "- training and held-out images: the mean of the shares of real and of mixed images "
            f"that the intrusion discriminator recognises, so that guessing gives {CHANCE:g}, on "
            "the batches of the last epoch and after it on the meta-validation images, which train "
            "nothing here; ± half the width of the 95 % Student-t interval over n seeds.",
            "- own parameters: of the policy generator and the discriminator, and over those of "
            "the classifier, which alone is evaluated.",
            f"- over the epochs: `{csv}`, `{picture}`.",
        ]
    )
