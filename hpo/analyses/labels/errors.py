"""This module lists the labels to look at first: the lowest-scored training images of every row
that keeps scores. Where labels were made wrong on purpose, it measures how many of these are found.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import core
from core.lazy import pandas as pd
from core.lazy import torch
from hpo.analyses.labels.contact_sheet import contact_sheet
from hpo.analyses.labels.detection import FEW, detect
from hpo.cells.record import CellRecord
from hpo.report.contrasts import mean_text
from hpo.report.history import finished_trainings
from hpo.report.markdown import padded_table
from hpo.report.outcome import Extra, Outcome
from hpo.report.style import save_figure
from hpo.storage.atomic import write_csv
from hpo.study.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from core.data import Source
    from core.training.prepared_data import TrainingLabels

LISTED = 200
"""Images of each seed in a list, but at most a tenth of the training images."""

SHOWN = 64
"""Images on a contact sheet."""

MEASURES = {
    "auc": "AUC",
    "precision_at_wrong": "precision at all wrong",
    "precision_at_few": f"precision at {FEW}",
}
"""Fields of `Detection` that are shown, and what they are called."""

LEGEND = (
    "- AUC: the chance that a wrong label scores lower than a right one; 0.5 is guessing. "
    "Precision at k: part of the k lowest-scored that are wrong, k being the number of wrong "
    f"labels or {FEW}; guessing gives the part that is wrong. Means over n seeds, ± half the width "
    "of the 95 % Student-t interval."
)
"""What the columns of a table of detection mean."""


def label_errors(outcome: Outcome) -> Extra:
    """Lists the training images that scores make suspects of, and draws contact sheets of them.

    For each data set and row that keeps scores: `STUDY-ROW-DATASET-suspects.csv`, the lowest-scored
    `LISTED` images of each seed, and of gray and color images `...-suspects.png`, the lowest-scored
    `SHOWN` of the first seed. A placebo's scores are noise; it gets neither. With wrong labels on
    purpose (`label_noise` or `labels`) the placebo is measured as well as the others, in
    `STUDY-label-errors.csv` and a table, and its means become metrics of the summary runs.

    Only the images on the sheets are read.

    Raises:
        DataFileError: such an image cannot be decoded.
    """
    rows = {row.row.key: row.row for row in outcome.plan.rows}
    scored = [r for r in finished_trainings(outcome) if r.trained.scores is not None]
    parts, files = [], []
    for (dataset, key), group in groupby(scored, lambda r: (r.cell.dataset, r.cell.method)):
        if rows[key].family != "placebo":
            csv, *sheet = _write_suspects(outcome, dataset, rows[key], list(group))
            files += [csv, *sheet]
            pictures = [f"; `{path.name}`, pictures of the first seed's" for path in sheet]
            parts.append(
                f"- {rows[key].label} on {dataset}: `{csv.name}`, the lowest-scored training "
                f"images of each seed{''.join(pictures)}."
            )
    text = ["## Labels to look at first", "\n".join(parts)] if scored else []
    metrics: dict[tuple[str, str], dict[str, float]] = {}
    noisy = [record for record in scored if record.cell.training.may_mislabel]
    if noisy:
        frame = pd.DataFrame([_detection(outcome, record) for record in noisy])
        files.append(write_csv(outcome.file("label-errors.csv"), frame))
        for (dataset, method), seeds in frame.groupby(["dataset", "method"], sort=False):
            means = seeds[list(MEASURES)].mean().dropna()
            metrics[method, dataset] = {f"label_errors_{name}": v for name, v in means.items()}
        text += [_detection_table(frame, rows), LEGEND]
    return Extra("\n\n".join(part for part in text if part), files, metrics)


def suspects(record: CellRecord, source: Source, k: int) -> pd.DataFrame:
    """Returns the k lowest-scored training images of one training, lowest first.

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
    scores = torch.tensor(_scores(record), dtype=torch.float64)
    positions, values = core.lowest_scores(scores, k)
    indices = labels.indices[positions].numpy()
    given, true = labels.given[positions].numpy(), labels.true[positions].numpy()
    names = np.array(source.classes, dtype=object)
    columns: dict[str, Any] = {
        "seed": record.cell.seed,
        "rank": np.arange(1, k + 1),
        "index": indices,
    }
    if source.train_files is not None:
        columns["file"] = [
            name.decode(errors="backslashreplace") for name in source.train_files[indices].tolist()
        ]
    columns |= {"given_label": given, "given_class": names[given], "score": values.numpy()}
    if record.cell.training.may_mislabel:
        columns |= {"true_label": true, "true_class": names[true], "wrong": given != true}
    return pd.DataFrame(columns)


def _scores(record: CellRecord) -> list[float]:
    """Returns the score of each training image of a training that keeps them."""
    return record.trained.scores or []


def training_labels(record: CellRecord, source: Source) -> TrainingLabels:
    """Returns what the record's cell trained on.

    Raises:
        ValueError: it has another number of scores than of training images.
    """
    from core.training.prepared_data import draw_labels

    labels = draw_labels(record.cell.training, source)
    if len(labels.indices) != len(_scores(record)):
        raise ValueError(
            f"{record.cell.id} has {len(_scores(record))} scores for "
            f"{len(labels.indices)} training images; train it again, with --fresh"
        )
    return labels


def _detection(outcome: Outcome, record: CellRecord) -> dict[str, Any]:
    """Returns how well the scores of one training find the wrong labels, as a line of the CSV."""
    cell = record.cell
    labels = training_labels(record, outcome.source_of(cell.training))
    detection = detect(_scores(record), (labels.given != labels.true).numpy())
    identity = {"dataset": cell.dataset, "method": cell.method, "seed": cell.seed}
    return {**identity, **asdict(detection)}


def _detection_table(frame: pd.DataFrame, rows: Mapping[str, Row]) -> str:
    """Returns Markdown: for each data set and method the mean of its seeds, with interval."""
    header = ("method", "wrong", "n", *MEASURES.values())
    parts = []
    for dataset, here in frame.groupby("dataset", sort=False):
        lines = []
        for method, seeds in here.groupby("method", sort=False):
            wrong, total = seeds["wrong"].mean(), seeds["total"].mean()
            means = [mean_text(seeds[name].dropna().tolist()) for name in MEASURES]
            share = f"{100 * wrong / total:.3g} % of {total:.0f}"
            lines.append([rows[str(method)].label, share, str(len(seeds)), *means])
        parts.append(f"### {dataset}\n\n{padded_table(header, lines)}")
    return "\n\n".join(parts)


def file_name(dataset: str) -> str:
    """Returns the data set in a file's name: of a folder its own name and some digits of its whole
    path."""
    if ":" not in dataset:
        return dataset
    name = re.sub(r"[^A-Za-z0-9_.]+", "_", dataset.rstrip("/").rpartition("/")[2])
    return f"{name}-{hashlib.sha256(dataset.encode()).hexdigest()[:6]}"


def _write_suspects(
    outcome: Outcome, dataset: str, row: Row, records: Sequence[CellRecord]
) -> list[Path]:
    """Writes the list, and a contact sheet of what can be looked at; returns the files."""
    stem = f"{outcome.plan.study}-{row.key}-{file_name(dataset)}-suspects"
    csv, picture = (outcome.output / f"{stem}.{kind}" for kind in ("csv", "png"))
    sources = [outcome.source_of(record.cell.training) for record in records]
    lists = [
        suspects(record, source, min(LISTED, max(1, len(_scores(record)) // 10)))
        for record, source in zip(records, sources, strict=True)
    ]
    write_csv(csv, pd.concat(lists))
    first, source = records[0], sources[0]
    if not source.holds_images or source.in_channels not in (1, 3):
        return [csv]
    total = len(_scores(first))
    shown = suspects(first, source, min(SHOWN, total))
    heading = (
        f"{row.label}, {dataset}, seed {first.cell.seed}: the {len(shown)} lowest-scored of "
        f"{total} training images, lowest first"
    )
    return [csv, save_figure(suspects_sheet(shown, source, heading), picture)]


def suspects_sheet(shown: pd.DataFrame, source: Source, heading: str) -> Figure:
    """Returns the contact sheet of these images of a source; see `suspects`."""
    images = source.images("train", torch.from_numpy(shown["index"].to_numpy(np.int64, copy=True)))
    pixels, _ = next(iter(images.batches([torch.arange(len(images))])))
    true = list(shown["true_class"]) if "true_class" in shown else None
    return contact_sheet(pixels.numpy(), list(shown["given_class"]), true, heading)
