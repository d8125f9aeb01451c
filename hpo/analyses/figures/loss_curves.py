"""Figure 2: the training loss of each policy against epochs, on mixed and on unmixed images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from core.lazy import pandas as pd
from core.training.result import TrainingResult
from hpo.report.contrasts import HOLM, Values, contrasts, mean_text, verdict
from hpo.report.figure_files import REFERENCE, figure_text, mean_table, seeds_of, written
from hpo.report.outcome import Extra, Outcome
from hpo.report.records import Results
from hpo.report.style import COLORS, DASHES, WIDTH, canvas, legend_below, short_name
from hpo.study.rows import StudyRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUANTITIES: Mapping[str, str] = {
    "train_loss": "training loss on mixed images",
    "label_entropy": "least possible: entropy of the mixed labels",
    "excess": "the same − least possible",
    "unmixed_loss": "loss on unmixed training images",
}
"""What is measured in each epoch. excess is train_loss − label_entropy, the mean Kullback-Leibler
divergence of the network's prediction from the mixed label."""

_PANELS = ("train_loss", "excess", "unmixed_loss")
_CLAIMS = {
    "train_loss": "on mixed images, as the paper has it",
    "excess": "above the least possible",
    "unmixed_loss": "on unmixed images",
}


def loss_curves(outcome: Outcome) -> Extra:
    """Draws the figure; the cells must have been analysed with `unmixed_images`."""
    frame = loss_table(outcome)
    return written(outcome, frame, loss_figure(frame), _text(outcome))


def loss_table(outcome: Outcome) -> pd.DataFrame:
    """Returns a line for each data set, row, quantity of QUANTITIES and epoch, 95 % interval.

    Epochs that not every seed has come to are left out.
    """

    def means(dataset: str, row: StudyRow) -> Iterator[tuple[Sequence[float], dict[str, Any]]]:
        results = outcome.results(dataset, row)
        for quantity in QUANTITIES:
            series = [_curve(result, quantity) for result in results.values()]
            shortest = min(map(len, series), default=0)
            by_epoch = zip(*(curve[:shortest] for curve in series), strict=True)
            for epoch, values in enumerate(by_epoch, 1):
                yield values, {"quantity": quantity, "epoch": epoch}

    return mean_table(outcome, means, "quantity", "epoch")


def loss_figure(frame: pd.DataFrame) -> Figure:
    """Draws a row of panels for each data set; bands are 95 % intervals over seeds.

    Args:
        frame: of `loss_table`, not empty.
    """
    from matplotlib.ticker import MaxNLocator

    datasets = list(frame["dataset"].unique())
    methods = {method: at for at, method in enumerate(frame["method"].unique())}
    figure = canvas(WIDTH, 3.1 * len(datasets) + 0.5)
    axes = figure.subplots(len(datasets), len(_PANELS), squeeze=False)
    for row, dataset in zip(axes, datasets, strict=True):
        for ax, quantity in zip(row, _PANELS, strict=True):
            here = frame[(frame["dataset"] == dataset) & (frame["quantity"] == quantity)]
            for (method, label), part in here.groupby(["method", "label"], sort=False):
                _draw(ax, part, methods[method], label)
            ax.set_title(QUANTITIES[quantity], fontsize=10)
            ax.set_xlabel("epoch")
            ax.set_ylim(bottom=0)
            ax.set_xlim(left=1)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.grid(lw=0.4, alpha=0.5)
        row[0].set_ylabel(f"{short_name(dataset, 24)}\ncross-entropy (nats)")
    legend_below(figure, axes.flat, len(methods), seeds_of(frame, "bands"))
    return figure


def _draw(ax: Axes, part: pd.DataFrame, at: int, label: str) -> None:
    colour = COLORS[at % len(COLORS)]
    ax.plot(part["epoch"], part["mean"], DASHES[at % len(DASHES)], color=colour, lw=1.6,
            label=label)  # fmt: skip
    ax.fill_between(part["epoch"], part["ci_low"], part["ci_high"], color=colour, alpha=0.14, lw=0)


def _curve(result: TrainingResult, quantity: str) -> list[float]:
    """Returns the values by epoch; NaN where one was not recorded."""
    history = result.history
    if quantity == "excess":
        return [m["train_loss"] - m.get("label_entropy", math.nan) for m in history]
    return [m.get(quantity, math.nan) for m in history]


def _text(outcome: Outcome) -> str:
    def said(dataset: str) -> tuple[Sequence[str], list[list[str]], Iterator[str]]:
        by_row = {row.row.key: outcome.results(dataset, row) for row in outcome.plan.rows}
        lasts = {key: {q: _last(results, q) for q in QUANTITIES} for key, results in by_row.items()}
        table = [
            [outcome.labels[key], *(mean_text(last[q].values()) for q in QUANTITIES)]
            for key, last in lasts.items()
        ]
        return ("policy", *QUANTITIES), table, _verdicts(outcome.plan.rows, lasts)

    note = (
        "- train_loss is of images mixed by the policy itself, so policies are compared on "
        "different data; with λ nearer to 0 and 1 its least possible value, label_entropy, is "
        "lower, whatever the network does. excess is what is left above it. unmixed_loss is of "
        "training images as they are, in evaluation mode.\n" + HOLM
    )
    return figure_text(outcome, "Training loss in the last epoch", said, note)


def _verdicts(rows: Sequence[StudyRow], lasts: Mapping[str, Mapping[str, Values]]) -> Iterator[str]:
    """Says for each learned row that was trained whether its loss is lower than MixUp's, in all
    three senses."""
    trained = {row.row.key: row.row for row in rows if lasts[row.row.key][_PANELS[0]]}
    reference = trained.get(REFERENCE)
    learned = [row for row in trained.values() if row.family == "learned"]
    against = contrasts(
        {
            (row.key, quantity): (lasts[row.key][quantity], lasts[REFERENCE][quantity])
            for row in learned
            if reference is not None
            for quantity in _PANELS
        }
    )
    for row in learned:
        if reference is not None:
            said = "; ".join(
                f"{_CLAIMS[quantity]}, {verdict([-contrast.direction])} ({contrast.text()})"
                for quantity in _PANELS
                for contrast in [against[row.key, quantity]]
            )
            yield f"- {row.label}, a lower loss than {reference.label}: {said}."


def _last(results: Results, quantity: str) -> dict[int, float]:
    return {seed: _curve(result, quantity)[-1] for seed, result in results.items()}
