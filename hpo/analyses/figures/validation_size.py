"""Figure 3: test error against the number of meta-validation images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.lazy import pandas as pd
from hpo.report.contrasts import HOLM, Values, contrasts, mean_text
from hpo.report.figure_files import (
    REFERENCE,
    figure_text,
    interval_columns,
    interval_table,
    seeds_of,
    written,
)
from hpo.report.outcome import Extra, Outcome
from hpo.report.records import errors_by_seed
from hpo.report.style import COLORS, DASHES, MARKERS, WIDTH, canvas, legend_below, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Curve:
    """These are the rows that one line of the figure is made of.

    Attributes:
        key, label: of the line.
        rows: keys of rows, by their number of meta-validation images.
    """

    key: str
    label: str
    rows: Mapping[int, str]


def validation_size(outcome: Outcome, curves: Sequence[Curve]) -> Extra:
    """Draws the figure, of those of the rows that the study has."""
    frame = size_table(outcome, curves)
    return written(outcome, frame, size_figure(frame), _text(outcome, curves))


def size_table(outcome: Outcome, curves: Sequence[Curve]) -> pd.DataFrame:
    """Returns a line for each data set, curve and number of images: test error (%), 95 % interval.

    The reference's is its own number of images, which it does not learn from.
    """
    rows = {row.row.key: row for row in outcome.plan.rows}
    lines: list[dict[str, Any]] = []
    for dataset in outcome.plan.datasets:
        base = outcome.plan.base[dataset]
        classes = outcome.source_of(base).num_classes
        wanted = [
            (curve.key, curve.label, size, key)
            for curve in curves
            for size, key in curve.rows.items()
        ]
        if REFERENCE in rows:
            label = rows[REFERENCE].row.label
            wanted.append((REFERENCE, label, base.meta_size, REFERENCE))
        for name, label, size, key in wanted:
            if key in rows:
                errors = errors_by_seed(outcome.records, key, dataset)
                line = {"dataset": dataset, "method": name, "label": label, "meta_size": size}
                interval = interval_columns(errors.values())
                lines.append(line | {"per_class": size / classes} | interval)
    return interval_table(lines, "meta_size", "per_class")


def size_figure(frame: pd.DataFrame) -> Figure:
    """Draws a panel for each data set; bars and band are 95 % intervals over seeds.

    Args:
        frame: of `size_table`, not empty.
    """
    datasets = list(frame["dataset"].unique())
    labels = frame[frame["method"] != REFERENCE]["label"].unique()
    places = {label: at for at, label in enumerate(labels, 1)}
    figure = canvas(WIDTH if len(datasets) > 1 else 0.75 * WIDTH, 4.2)
    axes = figure.subplots(1, len(datasets), squeeze=False)[0]
    for ax, dataset in zip(axes, datasets, strict=True):
        here = frame[(frame["dataset"] == dataset) & (frame["n_seeds"] > 0)]
        learned = here[here["method"] != REFERENCE]
        for label, part in learned.groupby("label", sort=False):
            _draw(ax, part, places[label], str(label))
        for _, line in here[here["method"] == REFERENCE].iterrows():
            ax.axhline(line["mean"], color=COLORS[0], lw=1.4, label=line["label"])
            ax.axhspan(line["ci_low"], line["ci_high"], color=COLORS[0], alpha=0.15, lw=0)
        _label_sizes(ax, learned)
        ax.set_title(short_name(dataset))
        ax.set_xlabel("meta-validation images (of each class)")
        ax.set_ylabel("test error (%)")
        ax.grid(lw=0.4, alpha=0.5)
    legend_below(figure, axes, 3, seeds_of(frame, "bars and band"))
    return figure


def _draw(ax: Axes, part: pd.DataFrame, at: int, label: str) -> None:
    # Side by side, or the intervals of equal sizes would hide each other.
    places = part["meta_size"] * 1.04 ** (2 * at - 3)
    half = (part["ci_high"] - part["mean"]).fillna(0)
    ax.errorbar(
        places, part["mean"], yerr=half, fmt=MARKERS[at] + DASHES[at], color=COLORS[at], ms=6,
        lw=1.4, capsize=3, elinewidth=1, label=label,
    )  # fmt: skip


def _label_sizes(ax: Axes, learned: pd.DataFrame) -> None:
    from matplotlib.ticker import NullFormatter, NullLocator

    sizes = learned.drop_duplicates("meta_size")
    ax.set_xscale("log")
    names = [f"{line.meta_size}\n({line.per_class:g})" for line in sizes.itertuples(index=False)]
    ax.set_xticks(list(sizes["meta_size"]), names)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())


def _text(outcome: Outcome, curves: Sequence[Curve]) -> str:
    rows = {row.row.key: row for row in outcome.plan.rows}

    def said(dataset: str) -> tuple[Sequence[str], list[list[str]], list[str]]:
        errors = {key: errors_by_seed(outcome.records, key, dataset) for key in rows}
        sizes = sorted({s for curve in curves for s, key in curve.rows.items() if key in rows})
        named = [(curve, _by_size(curve, errors)) for curve in curves]
        table = [
            [curve.label, *(mean_text(by_size.get(size, {}).values(), 2) for size in sizes)]
            for curve, by_size in named
        ]
        reference = errors.get(REFERENCE, {})
        items = list(_differences(named, reference, outcome.plan.base[dataset].meta_size))
        if reference:
            label = rows[REFERENCE].row.label
            items.insert(0, f"- {label}: {mean_text(reference.values(), 2)}.")
        return ("images", *map(str, sizes)), table, items

    note = (
        "- the paper: 10 images of each class instead of 100 cost 0.25 points on CIFAR-10 and 0.1 "
        "on SVHN; more than 100 gain nothing.\n" + HOLM
    )
    title = "Test error (%) against the number of meta-validation images"
    return figure_text(outcome, title, said, note)


def _by_size(curve: Curve, errors: Mapping[str, Values]) -> dict[int, Values]:
    """Returns the sizes of a curve that have results, with their errors."""
    return {size: errors[key] for size, key in curve.rows.items() if errors.get(key)}


def _differences(
    named: Sequence[tuple[Curve, Mapping[int, Values]]], reference: Values, base: int
) -> Iterator[str]:
    """Compares each size with the largest, and `base` with the reference of the same images."""
    pairs: dict[tuple[str, str], tuple[Values, Values]] = {}
    for curve, by_size in named:
        largest = max(by_size, default=0)
        for size, errors in by_size.items():
            if size != largest:
                pairs[curve.label, f"{size} − {largest} images"] = errors, by_size[largest]
        if base in by_size and reference:
            what = f"{base} images − MixUp, on the same training images"
            pairs[curve.label, what] = by_size[base], reference
    for (label, what), contrast in contrasts(pairs).items():
        yield f"- {label}, {what}: {contrast.text(2)}."
