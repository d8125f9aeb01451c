"""The labels to look at first: the lowest-scored training images of every row that keeps scores.

Where labels were made wrong on purpose, it is measured how many of these the scores find.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from core.data import Source
from core.policies.persistent_scores import lowest_scores
from core.training.prepared_data import TrainingLabels, draw_labels
from hpo.analyses.labels.contact_sheet import contact_sheet
from hpo.analyses.labels.detection import FEW, Detection, detect
from hpo.cells.record import CellRecord
from hpo.report.markdown import padded_table
from hpo.report.outcome import Extra, Outcome
from hpo.report.statistics import mean_interval
from hpo.report.study_figure import save_figure
from hpo.storage.atomic import write_atomically
from hpo.study.plan import source_key
from hpo.study.rows import StudyRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LISTED = 200
"""Images of each seed in a list, but at most a tenth of the training images."""

SHOWN = 64
"""Images on a contact sheet."""

_HEADER = ("method", "wrong", "n", "AUC", "precision at all wrong", f"precision at {FEW}")


def label_errors(outcome: Outcome) -> Extra:
    """Lists and contact sheets of the training images that scores make suspects of.

    For each data set and row that keeps scores: `STUDY-ROW-DATASET-suspects.csv`, the lowest-scored
    `LISTED` images of each seed, and `...-suspects.png`, the lowest-scored `SHOWN` of the first
    seed. A placebo's scores are noise; it gets neither. With wrong labels on purpose
    (`label_noise`) the placebo is measured as well as the others, in `STUDY-label-errors.csv` and a
    table, and its means become metrics of the summary runs.

    Only the images on the sheets are read.

    Raises:
        DataFileError: such an image cannot be decoded.
    """
    parts, files, measured = [], [], []
    for dataset in outcome.plan.datasets:
        for row in outcome.plan.rows:
            records = scored_records(outcome, dataset, row)
            measured += [line for record in records for line in _measured(outcome, record)]
            if records and row.row.family != "placebo":
                csv, sheet = _write_suspects(outcome, dataset, row, records)
                files += [csv, sheet]
                parts.append(
                    f"- {row.row.label} on {dataset}: `{csv.name}`, the lowest-scored training "
                    f"images of each seed; `{sheet.name}`, pictures of the first seed's."
                )
    if not parts and not measured:
        return Extra()
    text = ["## Labels to look at first", "\n".join(parts)]
    if measured:
        frame = pd.DataFrame(measured)
        csv = outcome.output / f"{outcome.plan.study}-label-errors.csv"
        write_atomically(csv, frame.to_csv(index=False, lineterminator="\n"))
        files.append(csv)
        labels = {row.row.key: row.row.label for row in outcome.plan.rows}
        text += [detection_table(frame, labels), LEGEND]
    return Extra("\n\n".join(part for part in text if part), files, _metrics(measured))


LEGEND = (
    "- AUC: the chance that a wrong label scores lower than a right one; 0.5 is guessing. "
    "Precision at k: part of the k lowest-scored that are wrong, k being the number of wrong "
    f"labels or {FEW}; guessing gives the part that is wrong. Means over n seeds, ± half the width "
    "of the 95 % Student-t interval."
)
"""What the columns of `detection_table` mean."""


def scored_records(outcome: Outcome, dataset: str, row: StudyRow) -> list[CellRecord]:
    """The row's finished final cells that have scores, by seed."""
    found = [
        record
        for record in outcome.records
        if record.cell.method == row.row.key
        and record.cell.dataset == dataset
        and record.cell.purpose == "final"
        and record.status == "finished"
        and record.result.get("scores") is not None
    ]
    return sorted(found, key=lambda record: record.cell.seed)


def suspects(record: CellRecord, source: Source, k: int) -> pd.DataFrame:
    """The k lowest-scored training images of one training, lowest first.

    Args:
        record: of a finished cell with scores.
        source: its data.
        k: how many, in [1, N].

    Returns:
        Columns seed, rank (from 1), index (in the training part of the source), file (below the
        data set's folder, of images that come from files), given_label, given_class, score; with
        label noise also true_label, true_class and wrong.
    """
    labels = training_labels(record, source)
    scores = torch.tensor(record.result["scores"], dtype=torch.float64)
    positions, values = lowest_scores(scores, k)
    indices = labels.indices[positions].numpy()
    given, true = labels.given[positions].numpy(), labels.true[positions].numpy()
    names = np.array(source.classes, dtype=object)
    columns: dict[str, Any] = {
        "seed": record.cell.seed,
        "rank": np.arange(1, k + 1),
        "index": indices,
    }
    if source.train_files is not None:
        columns["file"] = [os.fsdecode(name) for name in source.train_files[indices].tolist()]
    columns |= {"given_label": given, "given_class": names[given], "score": values.numpy()}
    if record.cell.training.label_noise > 0:
        columns |= {"true_label": true, "true_class": names[true], "wrong": given != true}
    return pd.DataFrame(columns)


def training_labels(record: CellRecord, source: Source) -> TrainingLabels:
    """What the record's cell trained on.

    Raises:
        ValueError: that are not as many images as it has scores.
    """
    labels = draw_labels(record.cell.training, source)
    if len(labels.indices) != len(record.result["scores"]):
        raise ValueError(
            f"{record.cell.id} has {len(record.result['scores'])} scores for "
            f"{len(labels.indices)} training images; train it again, with --fresh"
        )
    return labels


def detection_table(frame: pd.DataFrame, labels: dict[str, str]) -> str:
    """Markdown: for each data set and method the mean of its seeds, with interval.

    Args:
        frame: one row for each seed: dataset, method and the fields of `Detection`.
        labels: how methods are called.
    """
    parts = []
    for dataset in frame["dataset"].unique():
        here = frame[frame["dataset"] == dataset]
        lines = [
            _table_line(labels.get(str(method), str(method)), here[here["method"] == method])
            for method in here["method"].unique()
        ]
        parts.append(f"### {dataset}\n\n{padded_table(_HEADER, lines)}")
    return "\n\n".join(parts)


def detection_line(record: CellRecord, method: str, found: Detection) -> dict[str, Any]:
    """One row of the frame that `detection_table` takes."""
    return {
        "dataset": record.cell.dataset,
        "method": method,
        "seed": record.cell.seed,
        **asdict(found),
    }


def file_name(dataset: str) -> str:
    """The data set in a file's name: a folder by its own name and some digits of its whole path."""
    if ":" not in dataset:
        return dataset
    own = re.sub(r"[^A-Za-z0-9_.]+", "_", dataset.rstrip("/").rpartition("/")[2])
    return f"{own}-{hashlib.sha256(dataset.encode()).hexdigest()[:6]}"


def _table_line(label: str, seeds: pd.DataFrame) -> list[str]:
    wrong, total = seeds["wrong"].mean(), seeds["total"].mean()
    line = [label, f"{100 * wrong / total:.3g} % of {total:.0f}", str(len(seeds))]
    for name in ("auc", "precision_at_wrong", "precision_at_few"):
        interval = mean_interval(seeds[name].dropna().tolist())
        half = interval.high - interval.mean
        text = "–" if interval.n == 0 else f"{interval.mean:.3f}"
        line.append(text if np.isnan(half) else f"{text} ± {half:.3f}")
    return line


def _measured(outcome: Outcome, record: CellRecord) -> Iterator[dict[str, Any]]:
    if record.cell.training.label_noise > 0:
        labels = training_labels(record, outcome.sources[source_key(record.cell.training)])
        found = detect(record.result["scores"], (labels.given != labels.true).numpy())
        yield detection_line(record, record.cell.method, found)


def _metrics(measured: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, float]]:
    """Of each method and data set the mean of its seeds."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for key in dict.fromkeys((line["method"], line["dataset"]) for line in measured):
        lines = [line for line in measured if (line["method"], line["dataset"]) == key]
        for name in ("auc", "precision_at_wrong", "precision_at_few"):
            mean = float(np.mean([line[name] for line in lines]))
            if not np.isnan(mean):
                found.setdefault(key, {})[f"label_errors_{name}"] = mean
    return found


def _write_suspects(
    outcome: Outcome, dataset: str, row: StudyRow, records: Sequence[CellRecord]
) -> tuple[Path, Path]:
    stem = f"{outcome.plan.study}-{row.row.key}-{file_name(dataset)}-suspects"
    csv, picture = (outcome.output / f"{stem}.{kind}" for kind in ("csv", "png"))
    sources = [outcome.sources[source_key(record.cell.training)] for record in records]
    lists = [
        suspects(record, source, min(LISTED, max(1, len(record.result["scores"]) // 10)))
        for record, source in zip(records, sources, strict=True)
    ]
    write_atomically(csv, pd.concat(lists).to_csv(index=False, lineterminator="\n"))
    first, source = records[0], sources[0]
    total = len(first.result["scores"])
    shown = suspects(first, source, min(SHOWN, total))
    heading = (
        f"{row.row.label}, {dataset}, seed {first.cell.seed}: the {len(shown)} lowest-scored of "
        f"{total} training images, lowest first"
    )
    save_figure(suspects_sheet(shown, source, heading), picture)
    return csv, picture


def suspects_sheet(shown: pd.DataFrame, source: Source, heading: str) -> Figure:
    """Returns the contact sheet of these images of a source; see `suspects`."""
    images = source.images("train", torch.from_numpy(shown["index"].to_numpy(np.int64, copy=True)))
    pixels, _ = next(iter(images.batches([torch.arange(len(images))])))
    true = list(shown["true_class"]) if "true_class" in shown else None
    return contact_sheet(pixels.numpy(), list(shown["given_class"]), true, heading)
