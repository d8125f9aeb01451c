"""This module reports pseudo-labels over training: how many are accepted, how many of these are
right, and the threshold. It reads the history of stored records. The true labels that the accuracy
needs are the source's; no training sees them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from core.lazy import pandas as pd
from hpo.report.figure_files import drawn
from hpo.report.history import epochs_table, finished_trainings
from hpo.report.outcome import Extra, Outcome
from hpo.report.style import COLORS, DASHES, canvas, legend_below, short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STATISTICS: Mapping[str, str] = {
    "accepted": "accepted (% of unlabeled images)",
    "accepted_accuracy": "right (% of the accepted)",
    "threshold": "threshold",
}
"""Metrics of an epoch, and what they are called. One that accepted nothing has no accuracy."""


def pseudo_labels(outcome: Outcome) -> Extra:
    """Writes `STUDY-pseudo-labels.csv` and `STUDY-pseudo-labels.png`, and a line about them.

    The figure leaves controls out, which would be most of its lines. The last epoch's numbers,
    means over seeds, become metrics of the summary runs. A study in which no training gave
    pseudo-labels has no such part.
    """
    frame = epochs_table(finished_trainings(outcome), list(STATISTICS))
    if frame.empty:
        return Extra()
    controls = [row.row.key for row in outcome.plan.rows if row.row.control_of is not None]
    shown = frame[~frame["method"].isin(controls)]
    figure = pseudo_label_figure(frame if shown.empty else shown, outcome.labels)
    csv, picture = drawn(outcome, "pseudo-labels", frame.round(6), figure)
    text = (
        f"## Pseudo-labels\n\n- `{csv.name}`, `{picture.name}`: over the epochs of each training "
        "the share of unlabeled images whose pseudo-label was accepted, how many of these were "
        "right, and the threshold."
    )
    last = frame[frame["epoch"] == frame.groupby(["dataset", "method"])["epoch"].transform("max")]
    means = last.groupby(["method", "dataset"])[list(STATISTICS)].mean()
    metrics = {(str(m), str(d)): line.to_dict() for (m, d), line in means.iterrows()}
    return Extra(text, [csv, picture], metrics)


def pseudo_label_figure(frame: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """Draws for each data set a row of panels, one for each of STATISTICS: the mean over seeds, and
    a band from the lowest to the highest seed.

    Args:
        frame: of `hpo.report.history.epochs_table`, not empty.
        labels: of the methods, by key.
    """
    from matplotlib.ticker import MaxNLocator

    datasets, methods = (list(frame[name].unique()) for name in ("dataset", "method"))
    figure = canvas(14, 3.8 * len(datasets) + 0.3 * len(methods))
    axes = figure.subplots(len(datasets), len(STATISTICS), squeeze=False, sharex="row")
    for panels, dataset in zip(axes, datasets, strict=True):
        here = frame[frame["dataset"] == dataset]
        for ax, (name, called) in zip(panels, STATISTICS.items(), strict=True):
            for index, method in enumerate(methods):
                epochs = here[here["method"] == method].groupby("epoch")[name]
                mean = epochs.mean()
                color = COLORS[index % len(COLORS)]
                dashes = DASHES[index // len(COLORS) % len(DASHES)]
                ax.fill_between(
                    mean.index, epochs.min(), epochs.max(), color=color, alpha=0.12, lw=0
                )
                ax.plot(mean.index, mean, dashes, color=color, lw=1.6, label=labels[method])
            ax.set(xlabel="epoch", ylabel=called)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.grid(alpha=0.25)
        panels[0].set_title(short_name(dataset), loc="left")
    legend_below(figure, axes.flat, 4)
    return figure
