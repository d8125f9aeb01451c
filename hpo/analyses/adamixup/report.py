"""This module reports AdaMixUp over training: the region of λ, what the discriminator recognizes,
what both cost. It reads the history of stored records.
"""

from __future__ import annotations

from core.lazy import pandas as pd
from core.policies import AdaMixUpConfig
from hpo.analyses.adamixup.figure import CHANCE, region_figure
from hpo.report.contrasts import interval_text
from hpo.report.figure_files import drawn
from hpo.report.history import epochs_table, finished_trainings
from hpo.report.markdown import number, padded_table
from hpo.report.outcome import Extra, Outcome
from hpo.report.statistics import MeanInterval, mean_interval

STATISTICS = (
    "region_low", "region_high", "region_spread", "discriminator_loss", "discriminator_accuracy",
    "discriminator_held_out",
)  # fmt: skip
"""Metrics of an epoch, see `core.AdaMixUp.metrics` and `core.AdaMixUp.held_out_metrics`. The last
three are missing without a discriminator, the last also where the meta-validation images train too,
and the first three of a region that is not learned."""

_HEADER = (
    "method", "region, first epoch", "last epoch", "spread", "training images (%)",
    "held-out images (%)", "n", "own parameters",
)  # fmt: skip


def adamixup_report(outcome: Outcome) -> Extra:
    """Writes `STUDY-adamixup.csv` and `.png`, a table of the first and last epoch, and its numbers
    for the summary runs.

    A study without a training of AdaMixUp has no such part.
    """
    records = [
        record
        for record in finished_trainings(outcome)
        if isinstance(record.cell.training.policy, AdaMixUpConfig)
    ]
    if not records:
        return Extra()
    frame = epochs_table(records, STATISTICS)
    labels = outcome.labels
    csv, picture = drawn(outcome, "adamixup", frame.round(6), region_figure(frame, labels))
    results = {(r.cell.dataset, r.cell.method): r.trained for r in records}
    metrics: dict[tuple[str, str], dict[str, float]] = {}
    lines: dict[str, list[tuple[str, ...]]] = {}
    for (dataset, method), epochs in frame.groupby(["dataset", "method"], sort=False):
        first, last = (_means(epochs, epoch) for epoch in (1, epochs["epoch"].max()))
        metrics[method, dataset] = {name: interval.mean for name, interval in last.items()}
        result = results[dataset, method]
        share = result.policy_parameters / result.parameters
        cells = (
            labels[method],
            _region(first),
            _region(last),
            number(last["region_spread"].mean, "{:.3f}"),
            interval_text(last["discriminator_accuracy"], 1),
            interval_text(last["discriminator_held_out"], 1),
            str(epochs["seed"].nunique()),
            f"{result.policy_parameters:,} ({share:.2f}×)",
        )
        lines.setdefault(dataset, []).append(cells)
    parts = ["## AdaMixUp"]
    for dataset, table in lines.items():
        parts += [f"### {dataset}"] if len(lines) > 1 else []
        parts.append(padded_table(_HEADER, table))
    parts.append(_legend(csv.name, picture.name))
    return Extra("\n\n".join(parts), [csv, picture], metrics)


def _means(epochs: pd.DataFrame, epoch: int) -> dict[str, MeanInterval]:
    """Returns STATISTICS of one method and data set at an epoch, over seeds."""
    here = epochs[epochs["epoch"] == epoch]
    return {name: mean_interval(list(here[name].dropna())) for name in STATISTICS}


def _region(means: dict[str, MeanInterval]) -> str:
    low, high = means["region_low"].mean, means["region_high"].mean
    return "–" if low != low else f"[{low:.3f}, {high:.3f}]"


def _legend(csv: str, picture: str) -> str:
    return "\n".join(
        [
            "- region: means of a and a + b, λ being drawn between them; [0.333, 0.667] before "
            "training. spread: standard deviation of the regions' middles over the pairs of a "
            "batch, last epoch; 0 where all pairs have one region.",
            "- training and held-out images: the mean of the shares of real and of mixed images "
            f"that the intrusion discriminator recognizes, so that guessing gives {CHANCE:g}, on "
            "the batches of the last epoch and after it on the meta-validation images, which train "
            "nothing here; ± half the width of the 95 % Student-t interval over n seeds.",
            "- own parameters: of the policy generator and the discriminator, and over those of "
            "the classifier, which alone is evaluated.",
            f"- over the epochs: `{csv}`, `{picture}`.",
        ]
    )
