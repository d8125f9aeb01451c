"""Pseudo-labels over training: how many are accepted, how many of these are right, the threshold.

Reads the history of stored records. The true labels that the accuracy needs are the source's; no
training sees them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from hpo.report.outcome import Extra, Outcome
from hpo.report.panels import short_name
from hpo.report.study_figure import save_figure
from hpo.storage.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STATISTICS: Mapping[str, str] = {
    "accepted": "accepted (% of unlabelled images)",
    "accepted_accuracy": "right (% of the accepted)",
    "threshold": "threshold",
}
"""Of an epoch's metrics, and how they are called."""

COLUMNS = ("dataset", "method", "seed", "epoch", *STATISTICS)
"""Of the CSV. An epoch that accepted nothing has no accuracy."""

# Okabe and Ito's palette, safe for the colour-blind; a row past its end has other dashes.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", ":", "-.")


def pseudo_labels(outcome: Outcome) -> Extra:
    """`STUDY-pseudo-labels.csv` and `STUDY-pseudo-labels.png`, and a line about them.

    The figure leaves controls out, which would be most of its lines.

    Empty where no training gave pseudo-labels. The last epoch's numbers, means over seeds, become
    metrics of the summary runs.
    """
    frame = statistics(outcome)
    if frame.empty:
        return Extra()
    csv, picture = (
        outcome.output / f"{outcome.plan.study}-pseudo-labels.{kind}" for kind in ("csv", "png")
    )
    outcome.output.mkdir(parents=True, exist_ok=True)
    write_atomically(csv, frame.round(6).to_csv(index=False, lineterminator="\n"))
    labels = {row.row.key: row.row.label for row in outcome.plan.rows}
    controls = [row.row.key for row in outcome.plan.rows if row.row.control_of is not None]
    drawn = frame[~frame["method"].isin(controls)]
    save_figure(figure(frame if drawn.empty else drawn, labels), picture)
    text = (
        f"## Pseudo-labels\n\n- `{csv.name}`, `{picture.name}`: over the epochs of each training "
        "the share of unlabelled images whose pseudo-label was accepted, how many of these were "
        "right, and the threshold."
    )
    return Extra(text, [csv, picture], _metrics(frame))


def statistics(outcome: Outcome) -> pd.DataFrame:
    """One line for each epoch of each finished training with pseudo-labels; see COLUMNS."""
    order = [row.row.key for row in outcome.plan.rows]
    finished = [
        record
        for record in outcome.records
        if record.status == "finished"
        and record.cell.purpose == "final"
        and record.cell.method in order
    ]
    finished.sort(key=lambda r: (order.index(r.cell.method), r.cell.seed))
    lines: list[dict[str, Any]] = [
        {
            "dataset": record.cell.dataset,
            "method": record.cell.method,
            "seed": record.cell.seed,
            "epoch": int(metrics["epoch"]),
            **{name: metrics.get(name) for name in STATISTICS},
        }
        for dataset in outcome.plan.datasets
        for record in finished
        if record.cell.dataset == dataset
        for metrics in record.result["history"]
        if "accepted" in metrics
    ]
    return pd.DataFrame(lines, columns=list(COLUMNS)).astype(dict.fromkeys(STATISTICS, float))


def figure(frame: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """For each data set a row of panels, one for each of STATISTICS: mean over seeds, and from the
    lowest to the highest seed.

    Args:
        frame: of `statistics`, not empty.
        labels: how methods are called.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    datasets, methods = (list(frame[name].unique()) for name in ("dataset", "method"))
    drawn = Figure(figsize=(14, 3.8 * len(datasets) + 0.3 * len(methods)), layout="constrained")
    FigureCanvasAgg(drawn)
    axes = drawn.subplots(len(datasets), len(STATISTICS), squeeze=False, sharex="row")
    for row, dataset in zip(axes, datasets, strict=True):
        for ax, (name, called) in zip(row, STATISTICS.items(), strict=True):
            _draw(ax, frame[frame["dataset"] == dataset], name, methods, labels)
            ax.set_xlabel("epoch")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.set_ylabel(called)
            ax.grid(alpha=0.25)
        row[0].set_title(short_name(dataset), loc="left")
    handles = axes[0][0].get_legend_handles_labels()
    drawn.legend(*handles, loc="outside lower center", ncols=4, frameon=False)
    return drawn


def _draw(
    ax: Axes, frame: pd.DataFrame, name: str, methods: Sequence[str], labels: Mapping[str, str]
) -> None:
    for index, method in enumerate(methods):
        epochs = frame[frame["method"] == method].groupby("epoch")[name]
        mean, low, high = epochs.mean(), epochs.min(), epochs.max()
        colour = _COLOURS[index % len(_COLOURS)]
        dash = _DASHES[index // len(_COLOURS) % len(_DASHES)]
        ax.fill_between(mean.index, low, high, color=colour, alpha=0.12, lw=0)
        ax.plot(mean.index, mean, dash, color=colour, lw=1.6, label=labels[method])


def _metrics(frame: pd.DataFrame) -> dict[tuple[str, str], dict[str, float]]:
    last = frame[frame["epoch"] == frame.groupby(["dataset", "method"])["epoch"].transform("max")]
    means = last.groupby(["method", "dataset"])[list(STATISTICS)].mean()
    return {(m, d): line.to_dict() for (m, d), line in means.iterrows()}
