"""This module draws a study: errors with intervals, error against cost, λ over training."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpo.cells.record import CellRecord
from hpo.report.lambda_panel import draw_lambda, lambda_curves, lambda_styles
from hpo.report.panels import Line, draw_cost, draw_errors, error_legend, label_points
from hpo.report.style import WIDTH, canvas, legend_below, short_name

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_PANEL_WIDTH = 6.5  # inches, of one data set beside others
_COST_HEIGHT = 4.6
_LAMBDA_HEIGHT = 3.4


def study_figure(
    frame: pd.DataFrame,
    records: Iterable[CellRecord],
    cost: str = "seconds",
    left_out: Collection[str] = (),
) -> Figure:
    """Draws a study in one figure, a question a panel, a column a data set.

    From the top: which row has the fewest errors, the best first; what an error costs; and, where
    some λ moves, how it goes over training.

    Args:
        frame: of `hpo.report.table.build_table`.
        records: the records that the frame was built from.
        cost: what the second panel measures, one of `hpo.report.panels.COSTS`.
        left_out: keys of rows that are there for another one alone.
    """
    records = list(records)
    panels = _panels(frame[~frame["method"].isin(left_out)])
    curves = {
        dataset: lambda_curves(lines, [r for r in records if r.cell.dataset == dataset])
        for dataset, lines in panels.items()
    }
    heights = [1.6 + 0.32 * max(map(len, panels.values())), _COST_HEIGHT]
    if any(curves.values()):
        heights.append(_LAMBDA_HEIGHT)
    width = WIDTH if len(panels) == 1 else _PANEL_WIDTH * len(panels)
    figure = canvas(width, sum(heights))
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
    _error_panels(parts[0], panels, records)
    parts[0].suptitle("Which row errs least?")
    cost_axes = _cost_panels(parts[1], panels, cost)
    parts[1].suptitle("What does it cost?")
    if any(curves.values()):
        _lambda_panels(parts[2], panels, curves)
        parts[2].suptitle("Where does λ go? Half of all λ lie between a row's two lines")
    label_points(figure, cost_axes, cost)
    return figure


def _panels(frame: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Lines of the frame by data set.

    Raises:
        ValueError: the frame is empty.
    """
    if frame.empty:
        raise ValueError("nothing to draw: the table has no rows")
    # The same order in every panel: by the mean over data sets of the place among the rows there.
    places = frame.groupby("dataset")["mean_error"].rank(na_option="bottom")
    order = places.groupby(frame["method"]).mean()
    frame = frame.sort_values("method", key=lambda methods: methods.map(order), kind="stable")
    return {
        dataset: frame[frame["dataset"] == dataset].to_dict("records")
        for dataset in dict.fromkeys(frame.sort_index()["dataset"])
    }


def _error_panels(
    figure: Figure | SubFigure,
    panels: Mapping[str, Sequence[Line]],
    records: Sequence[CellRecord],
) -> None:
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    marks: set[str] = set()
    for index, (ax, (dataset, lines)) in enumerate(zip(axes, panels.items(), strict=True)):
        here = [record for record in records if record.cell.dataset == dataset]
        marks |= draw_errors(ax, lines, here)
        ax.set_title(short_name(dataset))
        if index:
            ax.tick_params(labelleft=False)
    legend_below(figure, error_legend(marks), 4)


def _cost_panels(
    figure: Figure | SubFigure, panels: Mapping[str, Sequence[Line]], cost: str
) -> dict[Axes, Sequence[Line]]:
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (dataset, lines) in zip(axes, panels.items(), strict=True):
        draw_cost(ax, lines, cost)
        ax.set_title(short_name(dataset))
    return dict(zip(axes, panels.values(), strict=True))


def _lambda_panels(
    figure: Figure | SubFigure,
    panels: Mapping[str, Sequence[Line]],
    curves: Mapping[str, dict[str, dict[str, np.ndarray]]],
) -> None:
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    shown = [
        line for name, lines in panels.items() for line in lines if line["method"] in curves[name]
    ]
    styles = lambda_styles(shown)
    for ax, (dataset, lines) in zip(axes, panels.items(), strict=True):
        draw_lambda(ax, lines, curves[dataset], styles)
        ax.set_title(short_name(dataset))
    legend_below(figure, axes, 4)
