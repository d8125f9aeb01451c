"""AdaMixUp over training: the region of λ, what the discriminator recognises, what both cost.

Reads the history of stored records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from hpo.cells import CellRecord, write_atomically
from hpo.markdown import number, padded_table
from hpo.outcome import Extra, Outcome
from hpo.plot_panels import short_name
from hpo.plots import save_figure
from hpo.statistics import MeanInterval, mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STATISTICS = ("region_low", "region_high", "discriminator_loss", "discriminator_accuracy")
"""Of an epoch's metrics; see `core.AdaMixUp.metrics`."""

COLUMNS = ("dataset", "method", "seed", "epoch", *STATISTICS)
"""Of the CSV. Without a discriminator the last two are empty."""

CHANCE = 50.0
"""Percent that the discriminator's accuracy has by guessing."""

_HEADER = ("method", "region, first epoch", "last epoch", "accuracy (%)", "n", "own parameters")

# Okabe and Ito's palette, safe for the colour-blind.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_HATCHES = ("", "///", "\\\\\\", "...", "xxx", "---", "+++")


def adamixup_report(outcome: Outcome) -> Extra:
    """`STUDY-adamixup.csv` and `.png`, a table of the first and last epoch, and its numbers for the
    summary runs.

    Empty where no training was one of AdaMixUp.
    """
    records = _records(outcome)
    if not records:
        return Extra()
    frame = statistics(records)
    labels = {row.row.key: row.row.label for row in outcome.plan.rows}
    csv, picture = (
        outcome.output / f"{outcome.plan.study}-adamixup.{kind}" for kind in ("csv", "png")
    )
    outcome.output.mkdir(parents=True, exist_ok=True)
    write_atomically(csv, frame.round(6).to_csv(index=False, lineterminator="\n"))
    save_figure(figure(frame, labels), picture)
    parts, metrics = ["## AdaMixUp"], {}
    keys = dict.fromkeys((record.cell.dataset, record.cell.method) for record in records)
    datasets = list(dict.fromkeys(dataset for dataset, _ in keys))
    for dataset in datasets:
        lines = []
        for method in [m for d, m in keys if d == dataset]:
            own = [r for r in records if (r.cell.dataset, r.cell.method) == (dataset, method)]
            found = _ends(frame[(frame["dataset"] == dataset) & (frame["method"] == method)])
            metrics[method, dataset] = {
                name: interval.mean for name, interval in found.items() if name in STATISTICS
            }
            lines.append(_cells(labels[method], found, own))
        parts += [f"### {dataset}"] if len(datasets) > 1 else []
        parts.append(padded_table(_HEADER, lines))
    parts.append(_legend(csv.name, picture.name))
    return Extra("\n\n".join(parts), [csv, picture], metrics)


def statistics(records: Sequence[CellRecord]) -> pd.DataFrame:
    """One line for each epoch of each training, in the order given; see COLUMNS.

    Args:
        records: finished trainings of AdaMixUp.
    """
    lines: list[dict[str, Any]] = [
        {
            "dataset": record.cell.dataset,
            "method": record.cell.method,
            "seed": record.cell.seed,
            "epoch": int(metrics["epoch"]),
            **{name: metrics.get(name) for name in STATISTICS},
        }
        for record in records
        for metrics in record.result["history"]
    ]
    return pd.DataFrame(lines, columns=list(COLUMNS)).astype(dict.fromkeys(STATISTICS, float))


def figure(frame: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """For each data set the region of λ over the epochs, and the discriminator's accuracy.

    Regions are means over seeds; the accuracy has a band from the lowest to the highest seed.

    Args:
        frame: of `statistics`, not empty.
        labels: how methods are called.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    datasets, methods = (list(frame[name].unique()) for name in ("dataset", "method"))
    drawn = Figure(figsize=(11, 3.8 * len(datasets) + 0.3 * len(methods)), layout="constrained")
    FigureCanvasAgg(drawn)
    axes = drawn.subplots(len(datasets), 2, squeeze=False)
    for (left, right), dataset in zip(axes, datasets, strict=True):
        here = frame[frame["dataset"] == dataset]
        for index, method in enumerate(methods):
            own = here[here["method"] == method]
            if not own.empty:
                _draw_region(left, own, index, labels[method])
                _draw_accuracy(right, own, index)
        left.axhline(1 / 3, color="#7F7F7F", lw=0.9, ls=":")
        left.axhline(2 / 3, color="#7F7F7F", lw=0.9, ls=":", label="before training")
        right.axhline(CHANCE, color="#7F7F7F", lw=0.9, ls="--", label="guessing")
        left.set_ylim(0.0, 1.0)
        right.set_ylim(min(45.0, right.get_ylim()[0]), 101.0)
        left.set_ylabel("region of λ, [a, a + b]")
        right.set_ylabel("discriminator's accuracy (%)")
        left.set_title(short_name(dataset), loc="left")
        for ax in (left, right):
            ax.set_xlabel("epoch")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.grid(alpha=0.25)
    named = {
        label: handle
        for ax in axes.flat
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    columns = 4 if max(map(len, named)) <= 32 else 2
    drawn.legend(named.values(), named, loc="outside lower center", ncols=columns, frameon=False)
    return drawn


def _draw_region(ax: Axes, frame: pd.DataFrame, index: int, label: str) -> None:
    means = frame.groupby("epoch")[["region_low", "region_high"]].mean()
    colour = _COLOURS[index % len(_COLOURS)]
    style: dict[str, Any] = {"color": colour, "alpha": 0.25, "lw": 0}
    if _HATCHES[index % len(_HATCHES)]:
        style |= {"hatch": _HATCHES[index % len(_HATCHES)], "edgecolor": colour}
    ax.fill_between(means.index, means["region_low"], means["region_high"], label=label, **style)
    for name in means:
        ax.plot(means.index, means[name], color=colour, lw=1.4)


def _draw_accuracy(ax: Axes, frame: pd.DataFrame, index: int) -> None:
    epochs = frame.dropna(subset="discriminator_accuracy").groupby("epoch")
    values = epochs["discriminator_accuracy"]
    mean, low, high = values.mean(), values.min(), values.max()
    colour = _COLOURS[index % len(_COLOURS)]
    ax.fill_between(mean.index, low, high, color=colour, alpha=0.15, lw=0)
    ax.plot(mean.index, mean, color=colour, lw=1.6)


def _records(outcome: Outcome) -> list[CellRecord]:
    """Finished trainings of AdaMixUp, in the order of the study's data sets, rows and seeds."""
    order = [row.row.key for row in outcome.plan.rows]
    datasets = list(outcome.plan.datasets)
    found = [
        record
        for record in outcome.records
        if record.status == "finished"
        and record.cell.purpose == "final"
        and record.cell.training.policy.kind.startswith("adamixup")
    ]
    return sorted(
        found,
        key=lambda r: (datasets.index(r.cell.dataset), order.index(r.cell.method), r.cell.seed),
    )


def _ends(frame: pd.DataFrame) -> dict[str, MeanInterval]:
    """Of one method and data set, over seeds: STATISTICS in the last epoch, and with "first_"
    before the name in the first."""
    found = {}
    for start, epoch in (("first_", frame["epoch"].min()), ("", frame["epoch"].max())):
        here = frame[frame["epoch"] == epoch]
        for name in STATISTICS:
            found[start + name] = mean_interval(list(here[name].dropna()))
    return found


def _cells(
    label: str, found: Mapping[str, MeanInterval], records: Sequence[CellRecord]
) -> tuple[str, ...]:
    accuracy, result = found["discriminator_accuracy"], records[0].result
    half = number(accuracy.high - accuracy.mean, " ± {:.1f}", missing="")
    share = result["policy_parameters"] / result["parameters"]
    return (
        label,
        *(
            f"[{found[f'{start}region_low'].mean:.3f}, {found[f'{start}region_high'].mean:.3f}]"
            for start in ("first_", "")
        ),
        number(accuracy.mean, "{:.1f}") + half,
        str(len(records)),
        f"{result['policy_parameters']:,} ({share:.2f}×)",
    )


def _legend(csv: str, picture: str) -> str:
    return "\n".join(
        [
            "- region: means of a and a + b, λ being drawn between them; [0.333, 0.667] before "
            "training.",
            "- accuracy: of the intrusion discriminator on training batches in the last epoch, the "
            "mean of the shares of real and of mixed images that it recognises, so that guessing "
            f"gives {CHANCE:g}; ± half the width of the 95 % Student-t interval over n seeds.",
            "- own parameters: of the policy generator and the discriminator, and over those of "
            "the classifier, which alone is evaluated.",
            f"- over the epochs: `{csv}`, `{picture}`.",
        ]
    )
