"""Ways to find wrong labels side by side: scores of a training, and cleanlab on predictions.

Reads stored records: scores from the training that kept them, out-of-sample predictions from
trainings that held out a fold (`TrainingConfig.folds`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from core.data import Source
from core.training.prepared_data import TrainingLabels, draw_labels
from hpo.analyses.labels.curves import Curves, curve_figure
from hpo.analyses.labels.detection import FEW, detect, precision_curve
from hpo.analyses.labels.errors import LEGEND
from hpo.cells.record import CellRecord
from hpo.report.markdown import number, padded_table, probability
from hpo.report.outcome import Extra, ExtraReport, Outcome
from hpo.report.statistics import holm, mean_interval, paired_comparison
from hpo.report.study_figure import save_figure
from hpo.storage.atomic import write_atomically
from hpo.study.plan import source_key

MEASURES = {
    "auc": "AUC",
    "precision_at_wrong": "precision at all wrong",
    "precision_at_few": f"precision at {FEW}",
}
"""Fields of `Detection` that are compared, and how they are called."""

_TESTED = ("auc", "precision_at_wrong")
_NAN = float("nan")


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


def require_cleanlab() -> None:
    """Raise ImportError, saying how to install it, where cleanlab is missing."""
    try:
        import cleanlab.rank  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "cleanlab is not installed, which this study compares with; "
            "pip install -e '.[label-errors]', or name other rows with --rows"
        ) from error


def label_quality(given: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Cleanlab's label quality in its default setting, [N], low where a label is suspected.

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
    """The part of a report that compares methods; the first one with each of the others.

    It writes `STUDY-comparison.csv` (each seed), `STUDY-differences.csv` (paired over seeds) and
    `STUDY-comparison.png` (precision against the number of labels looked at).
    """

    def comparison(outcome: Outcome) -> Extra:
        lines, curves = _measure(methods, outcome)
        if not lines:
            return Extra("## Finding wrong labels\n\nNo labels were made wrong (`--label-noise`).")
        frame = pd.DataFrame(lines)
        differences = pd.DataFrame(
            [line for dataset in curves for line in _differences(methods, frame, dataset)]
        )
        stem = outcome.output / outcome.plan.study
        csv, paired, picture = (
            stem.with_name(f"{stem.name}-{name}")
            for name in ("comparison.csv", "differences.csv", "comparison.png")
        )
        write_atomically(csv, frame.to_csv(index=False, lineterminator="\n"))
        write_atomically(paired, differences.to_csv(index=False, lineterminator="\n"))
        labels = {method.key: method.label for method in methods}
        save_figure(curve_figure(curves, labels), picture)
        parts = ["## Finding wrong labels"]
        for dataset in curves:
            here = frame[frame["dataset"] == dataset]
            parts += [f"### {dataset}", _table(methods, here, _units(outcome, dataset))]
            if len(differences):
                found = differences[differences["dataset"] == dataset]
                parts.append(_difference_table(methods, found))
        parts.append(f"{LEGEND}\n{_NOTES}")
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
    """The images of `Splits.train` of one seed with their labels, and how good each label looks.

    Args:
        records: of all trainings of a method with one seed, each finished.
        source: their data.

    Returns:
        Labels of N images and a score of each, float64 [N], low where the label is suspected; None
        if the trainings gave neither scores nor predictions for all N.
    """
    training = records[0].cell.training
    whole = draw_labels(replace(training, folds=0, fold=0, meta_in_training=False), source)
    scores = records[0].result.get("scores")
    if scores is not None:
        # Meta-validation images that train along come last.
        return whole, np.asarray(scores[: len(whole.indices)], np.float64)
    if any(record.result.get("probabilities") is None for record in records):
        return None
    held_out = torch.cat([draw_labels(r.cell.training, source).held_out for r in records])
    if held_out.sort().values.tolist() != whole.indices.tolist():
        return None
    predicted = np.concatenate([np.asarray(r.result["probabilities"]) for r in records])
    probabilities = predicted[held_out.argsort().numpy()]
    return whole, label_quality(whole.given.numpy(), probabilities)


def _measure(
    methods: Sequence[Method], outcome: Outcome
) -> tuple[list[dict[str, Any]], dict[str, Curves]]:
    """A line for each data set, method and seed; by data set and method the precision curves."""
    lines: list[dict[str, Any]] = []
    curves: dict[str, Curves] = {}
    for dataset in outcome.plan.datasets:
        for method in methods:
            for seed, records in _complete(method, outcome, dataset).items():
                source = outcome.sources[source_key(records[0].cell.training)]
                found = suspicion(records, source)
                if found is None or records[0].cell.training.label_noise == 0:
                    continue
                wrong = (found[0].given != found[0].true).numpy()
                curve = precision_curve(found[1], wrong)
                curves.setdefault(dataset, {}).setdefault(method.key, []).append((curve, wrong))
                lines.append(
                    {
                        "dataset": dataset,
                        "method": method.key,
                        "seed": seed,
                        **asdict(detect(found[1], wrong)),
                        "trainings": len(records),
                        "train_seconds": _total(records, "train_seconds"),
                        "samples_seen": _total(records, "samples_seen"),
                    }
                )
    return lines, curves


def _complete(method: Method, outcome: Outcome, dataset: str) -> dict[int, list[CellRecord]]:
    """By seed the records of the method's trainings, of seeds for which all are finished."""
    found: dict[int, dict[str, CellRecord]] = {}
    for record in outcome.records:
        cell = record.cell
        if cell.dataset == dataset and cell.purpose == "final" and record.status == "finished":
            found.setdefault(cell.seed, {})[cell.method] = record
    return {
        seed: [found[seed][key] for key in method.trainings]
        for seed in sorted(found)
        if found[seed].keys() >= set(method.trainings)
    }


def _total(records: Sequence[CellRecord], name: str) -> float:
    return sum(float(record.result[name]) for record in records)


def _units(outcome: Outcome, dataset: str) -> dict[str, float]:
    """What a training without MixUp costs, in seconds and in samples; NaN where there is none."""
    keys = {row.row.key for row in outcome.plan.rows if row.row.family == "none"}
    results = [
        record.result
        for record in outcome.records
        if record.cell.method in keys
        and record.cell.dataset == dataset
        and record.status == "finished"
    ]
    return {
        name: mean_interval([float(result[name]) for result in results]).mean
        for name in ("train_seconds", "samples_seen")
    }


def _differences(
    methods: Sequence[Method], frame: pd.DataFrame, dataset: str
) -> list[dict[str, Any]]:
    """The first method minus each other one that has results, for each measure that is tested."""
    seeds = {
        method.key: frame[(frame["dataset"] == dataset) & (frame["method"] == method.key)]
        .set_index("seed")
        .sort_index()
        for method in methods
    }
    first, *others = (method.key for method in methods)
    lines: list[dict[str, Any]] = []
    for other in others:
        shared = seeds[first].index.intersection(seeds[other].index)
        for measure in _TESTED:
            pair = [seeds[key].loc[shared, measure].tolist() for key in (first, other)]
            comparison = paired_comparison(*pair)
            if comparison.n:
                told = {"dataset": dataset, "method": first, "other": other, "measure": measure}
                lines.append({**told, **asdict(comparison)})
    for line, adjusted in zip(lines, holm([line["p_value"] for line in lines]), strict=True):
        line["p_holm"] = adjusted
    return lines


def _table(methods: Sequence[Method], frame: pd.DataFrame, units: Mapping[str, float]) -> str:
    lines = []
    for method in methods:
        seeds = frame[frame["method"] == method.key]
        if seeds.empty:
            continue
        costs = [number(seeds[name].mean() / unit, "{:.2f}×") for name, unit in units.items()]
        line = [method.label, str(len(method.trainings)), *costs, str(len(seeds))]
        for measure in MEASURES:
            interval = mean_interval(seeds[measure].dropna().tolist())
            half = number(interval.high - interval.mean, " ± {:.3f}", missing="")
            line.append(number(interval.mean, "{:.3f}") + half)
        lines.append(line)
    wrong, total = frame["wrong"].mean(), frame["total"].mean()
    header = ("method", "trainings", "cost", "samples", "n", *MEASURES.values())
    table = padded_table(header, lines)
    return f"{wrong:.0f} of {total:.0f} training labels are wrong.\n\n{table}"


def _difference_table(methods: Sequence[Method], frame: pd.DataFrame) -> str:
    header = [f"{methods[0].label} −"]
    for measure in _TESTED:
        header += [MEASURES[measure], "p (Holm)"]
    lines = []
    for method in methods[1:]:
        found: Mapping[str, Any] = {
            line["measure"]: line for line in frame[frame["other"] == method.key].to_dict("records")
        }
        if found:
            cells = [method.label]
            for measure in _TESTED:
                cells += [_difference(found[measure]), probability(found[measure]["p_holm"])]
            lines.append(cells)
    return padded_table(header, lines)


def _difference(line: Mapping[str, Any]) -> str:
    interval = "" if np.isnan(line["low"]) else f" [{line['low']:+.3f}, {line['high']:+.3f}]"
    return (number(line["difference"], "{:+.3f}") + interval).replace("-", "−")
