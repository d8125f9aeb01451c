"""This module draws a study: errors with intervals, error against cost, distributions of λ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpo.cells.record import CellRecord
from hpo.report.panels import (
    LAMBDA_COLUMNS,
    Histograms,
    Line,
    draw_cost,
    draw_errors,
    draw_lambda,
    error_legend,
    label_points,
    lambda_histogram_sums,
)
from hpo.report.style import canvas, legend_below, short_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_PANEL_WIDTH = 6.5  # inches
_COST_HEIGHT = 4.6
_LAMBDA_HEIGHT = 1.7


def study_figure(frame: pd.DataFrame, records: Iterable[CellRecord]) -> Figure:
    """Errors, cost and distributions of λ of a study in one figure.

    Args:
        frame: of `hpo.report.table.build_table`.
        records: the records that the frame was built from.
    """
    records = list(records)
    panels = _panels(frame)
    labels = dict(zip(frame["method"], frame["label"], strict=True))
    histograms = lambda_histogram_sums(records, list(panels), labels)
    heights = [_error_height(panels), _COST_HEIGHT]
    if histograms:
        heights.append(_LAMBDA_HEIGHT * _lambda_rows(histograms) + 0.6)
    figure = canvas(_PANEL_WIDTH * max(2, len(panels)), sum(heights))
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
    _error_panels(parts[0], panels, records)
    cost_axes = _cost_panels(parts[1], panels)
    if histograms:
        _lambda_panels(parts[2], histograms, labels)
    label_points(figure, cost_axes)
    return figure


def _panels(frame: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Lines of the frame by data set.

    Raises:
        ValueError: the frame is empty.
    """
    if frame.empty:
        raise ValueError("nothing to draw: the table has no rows")
    return {
        dataset: frame[frame["dataset"] == dataset].to_dict("records")
        for dataset in frame["dataset"].unique()
    }


def _error_height(panels: Mapping[str, Sequence[Line]]) -> float:
    return 1.6 + 0.32 * max(len(lines) for lines in panels.values())


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
    figure.legend(handles=error_legend(marks), loc="outside lower center", ncols=4, frameon=False)


def _cost_panels(
    figure: Figure | SubFigure, panels: Mapping[str, Sequence[Line]]
) -> dict[Axes, Sequence[Line]]:
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (dataset, lines) in zip(axes, panels.items(), strict=True):
        draw_cost(ax, lines)
        ax.set_title(short_name(dataset))
    return dict(zip(axes, panels.values(), strict=True))


def _lambda_rows(histograms: Mapping[str, Histograms]) -> int:
    return sum(-(-len(methods) // LAMBDA_COLUMNS) for methods in histograms.values())


def _lambda_panels(
    figure: Figure | SubFigure,
    histograms: Mapping[str, Histograms],
    labels: Mapping[str, str],
) -> None:
    columns = min(LAMBDA_COLUMNS, max(len(methods) for methods in histograms.values()))
    axes = figure.subplots(_lambda_rows(histograms), columns, squeeze=False)
    free = iter(axes)
    for dataset, methods in histograms.items():
        row: Sequence[Axes] = ()
        for index, (method, counts) in enumerate(methods.items()):
            if index % columns == 0:
                row = list(next(free))
                row[0].set_ylabel(f"{short_name(dataset, 18)}\ndensity")
            draw_lambda(row[index % columns], labels[method], *counts)
        for unused in row[len(methods) % columns or columns :]:
            unused.set_axis_off()
    legend_below(figure, axes[0][0], 2)
