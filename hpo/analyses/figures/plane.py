"""Figure 4: features of test images in the plane, and how often they collide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from core.lazy import pandas as pd
from hpo.report.contrasts import HOLM, Values, contrasts, mean_text, verdict
from hpo.report.figure_files import REFERENCE, figure_text, row_line, written
from hpo.report.outcome import Extra, Outcome
from hpo.report.records import Results
from hpo.report.style import CLASS_COLORS, CLASS_MARKERS, WIDTH, canvas, short_name
from hpo.study.rows import StudyRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMED_CLASSES = 20
"""Of more classes there is no legend."""

_GAP = 0.06
"""Of the width and the height of a panel, between the middles of two names."""


def plane(outcome: Outcome) -> Extra:
    """Draws the figure; the cells must have been analysed with `plane_images`."""
    frame = plane_table(outcome)
    return written(outcome, frame, plane_figure(frame), _text(outcome))


def plane_table(outcome: Outcome) -> pd.DataFrame:
    """Returns one line for each image of each data set and row, of the lowest seed that finished.

    Columns: dataset, method, label, seed, test_error (percent, of the whole network), class_name,
    class_index, x, y: the image's two features.
    """
    lines: list[dict[str, Any]] = []
    for dataset in outcome.plan.datasets:
        names = outcome.source_of(outcome.plan.base[dataset]).classes
        for row in outcome.plan.rows:
            results = _with_planes(outcome.results(dataset, row))
            if not results:
                continue
            seed = min(results)
            analysis = results[seed].analysis
            for (x, y), label in zip(analysis.plane, analysis.plane_labels, strict=True):
                image = {"class_name": names[label], "class_index": label, "x": x, "y": y}
                error = results[seed].test_error
                lines.append(row_line(dataset, row, seed=seed, test_error=error, **image))
    columns = ["dataset", "method", "label", "seed", "test_error"]
    return pd.DataFrame(lines, columns=[*columns, "class_name", "class_index", "x", "y"])


def plane_figure(frame: pd.DataFrame) -> Figure:
    """Draws a row of panels for each data set, one for each row of the study.

    A `plane_table` without lines raises ValueError.
    """
    if frame.empty:
        raise ValueError("no finished training has features in the plane; train with cnn_2d")
    datasets, methods = list(frame["dataset"].unique()), list(frame["method"].unique())
    columns = len(methods)
    figure = canvas(WIDTH, ((WIDTH - 1.2) / columns + 0.5) * len(datasets))
    axes = figure.subplots(len(datasets), len(methods), squeeze=False)
    for row, dataset in zip(axes, datasets, strict=True):
        for ax, method in zip(row, methods, strict=True):
            here = frame[(frame["dataset"] == dataset) & (frame["method"] == method)]
            if here.empty:
                ax.set_axis_off()
                continue
            _scatter(ax, here)
            first = here.iloc[0]
            ax.set_title(
                f"{first['label']}\nseed {first['seed']}, test error {first['test_error']:.1f} %",
                fontsize=10,
            )
            ax.set_xlabel("first feature")
        row[0].set_ylabel(f"{short_name(dataset, 24)}\nsecond feature")
        _legend(row[-1], frame[frame["dataset"] == dataset])
    return figure


def _legend(ax: Axes, here: pd.DataFrame) -> None:
    """Says beside a row of panels what its numbers are called."""
    from matplotlib.lines import Line2D

    classes = dict(sorted(zip(here["class_index"], here["class_name"], strict=True)))
    if len(classes) > _NAMED_CLASSES:
        return
    handles = [
        Line2D([], [], ls="", label=f"{at} {name}", **_look(at)) for at, name in classes.items()
    ]
    ax.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        fontsize=9,
        handletextpad=0.2,
    )


def _look(at: int) -> dict[str, Any]:
    """Returns marker and color of a class."""
    return {"marker": CLASS_MARKERS[at % 10], "color": CLASS_COLORS[at % 10]}


def collisions(features: np.ndarray, labels: np.ndarray) -> float:
    """Returns the part of the images, in percent, whose nearest other image has another label.

    Unlike distances it does not change where features are stretched as a whole.

    Args:
        features: [n, 2], n at least 2.
        labels: [n].
    """
    from scipy.spatial import cKDTree

    # The nearest two: of an image that coincides with others it may be itself or not.
    _, nearest = cKDTree(features).query(features, k=2)
    rows = np.arange(len(features))
    other = np.where(nearest[:, 0] == rows, nearest[:, 1], nearest[:, 0])
    return float(100 * np.mean(labels[other] != labels))


def _scatter(ax: Axes, here: pd.DataFrame) -> None:
    from matplotlib.patheffects import withStroke

    for index, part in here.groupby("class_index"):
        at = int(index)
        ax.scatter(part["x"], part["y"], s=11, alpha=0.8, linewidths=0, **_look(at))
    middles = here.groupby("class_index")[["x", "y"]].median()
    for (index, _), place in zip(middles.iterrows(), _apart(middles.to_numpy(), here), strict=True):
        ax.annotate(
            str(index),
            (place[0], place[1]),
            ha="center",
            va="center",
            fontsize=9.5,
            color=_look(int(str(index)))["color"],
            fontweight="bold",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
    ax.grid(lw=0.4, alpha=0.5)


def _apart(places: np.ndarray, here: pd.DataFrame) -> np.ndarray:
    """Returns places [n, 2] of names, moved until they are `_GAP` of the panel apart."""
    size = np.ptp(here[["x", "y"]].to_numpy(), axis=0)
    size[size == 0] = 1.0
    moved = places / size
    for _ in range(100):
        off = moved[:, None] - moved
        distance = np.linalg.norm(off, axis=2)
        near = (distance < _GAP) & ~np.eye(len(moved), dtype=bool)
        if not near.any():
            break
        # At one place they go apart by their order.
        order = np.sign(np.subtract.outer(np.arange(len(moved)), np.arange(len(moved))))
        away = np.where(distance > 1e-9, 1.0, 0.0)[..., None] * off
        away[..., 0] += np.where(distance > 1e-9, 0.0, order)
        away /= np.maximum(np.linalg.norm(away, axis=2, keepdims=True), 1e-9)
        push = np.where(near, (_GAP * 1.01 - distance) / 2, 0.0)[..., None]
        moved = moved + (push * away).sum(axis=1)
    return np.asarray(moved * size)


def _with_planes(results: Results) -> Results:
    return {seed: result for seed, result in results.items() if result.analysis.plane}


def _text(outcome: Outcome) -> str:
    def said(dataset: str) -> tuple[Sequence[str], list[list[str]], Iterator[str]]:
        by_row: dict[str, Values] = {}
        table = []
        for row in outcome.plan.rows:
            results = _with_planes(outcome.results(dataset, row))
            by_row[row.row.key] = {
                seed: collisions(*map(np.asarray, (r.analysis.plane, r.analysis.plane_labels)))
                for seed, r in results.items()
            }
            errors = [result.test_error for result in results.values()]
            values = list(by_row[row.row.key].values())
            cells = [mean_text(values, 2), mean_text(errors, 2)]
            table.append([row.row.label, str(len(values)), *cells])
        head = ("policy", "n", "collisions (%)", "test error (%)")
        return head, table, _verdicts(outcome.plan.rows, by_row)

    note = (
        "- collisions: part of the images whose nearest other image in the plane has another "
        "label. The picture is of one seed; the numbers are of all.\n" + HOLM
    )
    return figure_text(outcome, "Features in the plane", said, note)


def _verdicts(rows: Sequence[StudyRow], by_row: Mapping[str, Values]) -> Iterator[str]:
    """Says for each other row whether it has fewer collisions than MixUp."""
    labels = {row.row.key: row.row.label for row in rows if by_row[row.row.key]}
    against = contrasts(
        {
            key: (by_row[key], by_row[REFERENCE])
            for key in labels
            if key != REFERENCE and REFERENCE in labels
        }
    )
    for key, contrast in against.items():
        yield (
            f"- {labels[key]}, fewer collisions than {labels[REFERENCE]}, as the paper has it: "
            f"{verdict([-contrast.direction])} ({contrast.text(2)})."
        )
