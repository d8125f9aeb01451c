"""This module compares ways to find wrong labels: scores of a training, cleanlab on predictions.

It reads stored records: scores from the training that kept them, out-of-sample predictions from
trainings that held out a fold (`TrainingConfig.folds`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from core.lazy import pandas as pd
from hpo.analyses.labels.curves import Curves, curve_figure
from hpo.analyses.labels.detection import detect, precision_curve
from hpo.analyses.labels.errors import LEGEND, MEASURES
from hpo.cells.record import CellRecord
from hpo.report.contrasts import contrasts, mean_text
from hpo.report.history import finished_trainings
from hpo.report.markdown import difference, number, padded_table, probability
from hpo.report.outcome import Extra, ExtraReport, Outcome
from hpo.report.statistics import mean_interval
from hpo.report.style import save_figure
from hpo.storage.atomic import write_csv
from hpo.study.filtering import out_of_sample, require_cleanlab

if TYPE_CHECKING:
    from core.data import Source
    from core.training.prepared_data import TrainingLabels

_TESTED = ("auc", "precision_at_wrong")
_COSTS = ("train_seconds", "samples_seen")


@dataclass(frozen=True)
class Method:
    """A way to suspect labels.

    Attributes:
        key, label: for programs and for people.
        trainings: keys of the rows whose trainings it needs. One that keeps scores: these. Several
            that hold out folds, or one that holds out everything: cleanlab's label quality, from
            their predictions.
    """

    key: str
    label: str
    trainings: tuple[str, ...]


def label_quality(given: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns cleanlab's label quality in its default setting, [N], low where a label is suspected.

    That is self-confidence, the probability of the given label; its order is that of the loss.

    Args:
        given: int64 [N].
        probabilities: [N, C], out of sample; their sum may be off by rounding.

    Raises:
        ImportError: cleanlab is not installed.
    """
    require_cleanlab()
    from cleanlab.rank import get_label_quality_scores

    whole = probabilities / probabilities.sum(axis=1, keepdims=True)
    return np.asarray(get_label_quality_scores(given, whole))


def label_comparison(methods: Sequence[Method]) -> ExtraReport:
    """Returns the part of a report that compares methods; the first one with each of the others.

    It writes `STUDY-comparison.csv` (each seed), `STUDY-differences.csv` (paired over seeds) and
    `STUDY-comparison.png` (precision against the number of labels looked at).
    """

    def comparison(outcome: Outcome) -> Extra:
        lines, curves = _measure(methods, outcome)
        if not lines:
            return Extra("## Finding wrong labels\n\nNo labels were made wrong (`--label-noise`).")
        frame = pd.DataFrame(lines)
        parts, differences = ["## Finding wrong labels"], []
        for dataset, seeds in frame.groupby("dataset", sort=False):
            tested = _differences(methods, seeds)
            differences += [{"dataset": dataset, **line} for line in tested]
            parts += [f"### {dataset}", _table(methods, seeds, _units(outcome, str(dataset)))]
            parts += [_difference_table(methods, tested)] if tested else []
        parts.append(f"{LEGEND}\n{_NOTES}")
        names = ("comparison.csv", "differences.csv", "comparison.png")
        csv, paired, picture = map(outcome.file, names)
        write_csv(csv, frame)
        write_csv(paired, pd.DataFrame(differences))
        save_figure(curve_figure(curves, {m.key: m.label for m in methods}), picture)
        return Extra("\n\n".join(parts), [csv, paired, picture])

    return comparison


_NOTES = (
    "- trainings, cost (time), samples (sent forward): of one seed; 1.00× is a training without "
    "MixUp. Differences are paired over the seeds that both have, with 95 % interval and p of the "
    "paired t test, adjusted by Holm's method for all that were tested on the data set."
)


def suspicion(
    records: Sequence[CellRecord], source: Source
) -> tuple[TrainingLabels, np.ndarray] | None:
    """Judges the labels of the images of `Splits.train` of one seed.

    Args:
        records: of all trainings of a method with one seed, each finished.
        source: their data.

    Returns:
        Labels of N images and a score of each, float64 [N], low where the label is suspected; None
        if the trainings gave neither scores nor predictions for all N.
    """
    from core.training.prepared_data import draw_labels

    scores = records[0].trained.scores
    if scores is not None:
        training = replace(records[0].cell.training, folds=0, fold=0, meta_in_training=False)
        whole = draw_labels(training, source)
        # Meta-validation images that train along come last.
        return whole, np.asarray(scores[: len(whole.indices)], np.float64)
    joined = out_of_sample(records, source)
    if joined is None:
        return None
    labels, probabilities = joined
    return labels, label_quality(labels.given.numpy(), probabilities)


def _measure(
    methods: Sequence[Method], outcome: Outcome
) -> tuple[list[dict[str, Any]], dict[str, Curves]]:
    """Returns a line for each data set, method and seed whose trainings have all finished, and by
    data set and method the precision curves."""
    lines: list[dict[str, Any]] = []
    curves: dict[str, Curves] = {}
    finished = {
        (r.cell.dataset, r.cell.method, r.cell.seed): r for r in finished_trainings(outcome)
    }
    for dataset in outcome.plan.datasets:
        for method in methods:
            for seed in outcome.plan.seeds:
                records = [
                    finished[key]
                    for row in method.trainings
                    if (key := (dataset, row, seed)) in finished
                ]
                if (
                    len(records) < len(method.trainings)
                    or not records[0].cell.training.may_mislabel
                ):
                    continue
                judged = suspicion(records, outcome.source_of(records[0].cell.training))
                if judged is None:
                    continue
                labels, scores = judged
                wrong = (labels.given != labels.true).numpy()
                curve = precision_curve(scores, wrong)
                curves.setdefault(dataset, {}).setdefault(method.key, []).append((curve, wrong))
                lines.append(
                    {"dataset": dataset, "method": method.key, "seed": seed}
                    | asdict(detect(scores, wrong))
                    | {"trainings": len(records)}
                    | {name: sum(getattr(r.result, name) for r in records) for name in _COSTS}
                )
    return lines, curves


def _units(outcome: Outcome, dataset: str) -> dict[str, float]:
    """Returns what a training without MixUp costs; NaN where there is none."""
    keys = {row.row.key for row in outcome.plan.rows if row.row.family == "none"}
    results = [
        record.result
        for record in finished_trainings(outcome)
        if record.cell.method in keys and record.cell.dataset == dataset
    ]
    return {name: mean_interval([float(getattr(r, name)) for r in results]).mean for name in _COSTS}


def _differences(methods: Sequence[Method], seeds: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns the first method minus each other one that has results, for each measure that is
    tested, on one data set."""
    values = {
        method.key: seeds[seeds["method"] == method.key].set_index("seed") for method in methods
    }
    first, *others = values
    tested = contrasts(
        {
            (other, measure): (dict(values[first][measure]), dict(values[other][measure]))
            for other in others
            for measure in _TESTED
        }
    )
    return [
        {"method": first, "other": other, "measure": measure}
        | contrast.paired._asdict()
        | {"p_holm": contrast.p_holm}
        for (other, measure), contrast in tested.items()
        if contrast.paired.n
    ]


def _table(methods: Sequence[Method], frame: pd.DataFrame, units: Mapping[str, float]) -> str:
    lines = []
    for method in methods:
        seeds = frame[frame["method"] == method.key]
        if seeds.empty:
            continue
        costs = [number(seeds[name].mean() / unit, "{:.2f}×") for name, unit in units.items()]
        means = [mean_text(seeds[measure].dropna().tolist()) for measure in MEASURES]
        line = [method.label, str(len(method.trainings)), *costs, str(len(seeds)), *means]
        lines.append(line)
    wrong, total = frame["wrong"].mean(), frame["total"].mean()
    header = ("method", "trainings", "cost", "samples", "n", *MEASURES.values())
    table = padded_table(header, lines)
    return f"{wrong:.0f} of {total:.0f} training labels are wrong.\n\n{table}"


def _difference_table(methods: Sequence[Method], tested: Sequence[Mapping[str, Any]]) -> str:
    header = [f"{methods[0].label} −"]
    for measure in _TESTED:
        header += [MEASURES[measure], "p (Holm)"]
    cells: dict[str, list[str]] = {}
    labels = {method.key: method.label for method in methods}
    for line in tested:
        told = difference(line["difference"], line["low"], line["high"], 3)
        row = cells.setdefault(line["other"], [labels[line["other"]]])
        row += [told, probability(line["p_holm"])]
    return padded_table(header, list(cells.values()))
