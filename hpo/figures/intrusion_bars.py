"""Figure 5: how near mixed samples come to real samples of other classes, by policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from hpo.figures.common import (
    Values,
    canvas,
    compared,
    differs,
    results_of,
    table_line,
    told,
    written,
)
from hpo.markdown import padded_table
from hpo.outcome import Extra, Outcome
from hpo.plan import StudyRow
from hpo.plot_panels import family_style, short_name
from hpo.statistics import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUANTITIES: Mapping[str, str] = {
    "mean": "average distance",
    "minimum": "minimal distance",
    "relative_mean": "average, relative",
    "relative_minimum": "minimal, relative",
    "mean_to_real": "average over that of unmixed images",
}
"""mean and minimum as the paper has them; relative: over the mean distance between real samples of
different classes (`Intrusion.scale`); to_real: over `Intrusion.real_mean`."""

_PANELS = ("mean", "minimum", "relative_mean", "relative_minimum")
_REFERENCE = "beta-1"


def intrusion_bars(outcome: Outcome) -> Extra:
    """Draw the figure; the cells must have been analysed with `mixed_samples`."""
    frame = intrusion_table(outcome)
    return written(outcome, frame, intrusion_figure(frame), _text(outcome))


def intrusion_table(outcome: Outcome) -> pd.DataFrame:
    """One line for each data set, row and quantity of QUANTITIES, with 95 % interval over seeds."""
    lines: list[dict[str, Any]] = []
    for dataset in outcome.plan.datasets:
        for row in outcome.plan.rows:
            found = distances(outcome, dataset, row)
            for quantity in QUANTITIES:
                values = [seed[quantity] for seed in found.values()]
                lines.append(
                    {
                        "dataset": dataset,
                        "method": row.row.key,
                        "label": row.row.label,
                        "family": row.row.family,
                        "quantity": quantity,
                        **table_line(mean_interval(values)),
                    }
                )
    columns = ["dataset", "method", "label", "family", "quantity"]
    return pd.DataFrame(lines, columns=[*columns, "n_seeds", "mean", "ci_low", "ci_high"])


def distances(outcome: Outcome, dataset: str, row: StudyRow) -> dict[int, dict[str, float]]:
    """By seed the QUANTITIES of a row; without trainings that were not analysed or have no third
    class."""
    by_seed = {}
    for seed, result in results_of(outcome, dataset, row).items():
        found = (result.get("findings") or {}).get("intrusion")
        if found and found["samples"]:
            mean, minimum, scale = found["mean"], found["minimum"], found["scale"]
            by_seed[seed] = {
                "mean": mean,
                "minimum": minimum,
                "relative_mean": mean / scale,
                "relative_minimum": minimum / scale,
                "mean_to_real": mean / found["real_mean"],
            }
    return by_seed


def intrusion_figure(frame: pd.DataFrame) -> Figure:
    """For each data set a row of four panels: average and minimum, absolute and relative.

    Args:
        frame: of `intrusion_table`, not empty.
    """
    from matplotlib.lines import Line2D

    datasets = list(frame["dataset"].unique())
    rows = frame["method"].nunique()
    figure = canvas(3.3 * len(_PANELS) + 1.8, (1.3 + 0.34 * rows) * len(datasets) + 0.5)
    axes = figure.subplots(len(datasets), len(_PANELS), squeeze=False, sharey="row")
    for panels, dataset in zip(axes, datasets, strict=True):
        for ax, quantity in zip(panels, _PANELS, strict=True):
            here = frame[(frame["dataset"] == dataset) & (frame["quantity"] == quantity)]
            _draw(ax, here)
            ax.set_title(QUANTITIES[quantity], fontsize=10)
            unit = "× distance between classes" if "relative" in quantity else "distance"
            ax.set_xlabel(unit, fontsize=9)
        panels[0].set_ylabel(short_name(dataset))
    handles = [
        Line2D([], [], marker="o", color="#555555", label="mean and 95 % interval over seeds"),
        Line2D([], [], color="#0072B2", lw=0.9, ls="--", label="MixUp"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw(ax: Axes, here: pd.DataFrame) -> None:
    lines = here.to_dict("records")
    for y, line in enumerate(lines):
        if line["n_seeds"] == 0:
            ax.text(0.02, y, "no result", transform=ax.get_yaxis_transform(), va="center",
                    fontsize=8, color="#555555")  # fmt: skip
            continue
        colour, marker = family_style(line["family"])
        half = line["ci_high"] - line["mean"]
        xerr = None if half != half else half
        ax.errorbar(line["mean"], y, xerr=xerr, fmt=marker, ms=6, color=colour, capsize=3)
        if line["method"] == _REFERENCE:
            ax.axvline(line["mean"], color=colour, lw=0.9, ls="--", zorder=1)
    ax.set_ylim(len(lines) - 0.5, -0.5)
    ax.set_yticks(range(len(lines)), [line["label"] for line in lines])
    ax.set_xlim(left=0)
    ax.grid(axis="x", lw=0.4, alpha=0.5)


def _text(outcome: Outcome) -> str:
    parts = ["## Distance of mixed samples to real samples of other classes"]
    for dataset in outcome.plan.datasets:
        found = {row.row.key: distances(outcome, dataset, row) for row in outcome.plan.rows}
        labels = {row.row.key: row.row.label for row in outcome.plan.rows}
        table = [
            [labels[key], str(len(seeds)), *_cells(seeds.values())] for key, seeds in found.items()
        ]
        parts += [f"{dataset}:", padded_table(("policy", "n", *QUANTITIES), table)]
        learned = [row for row in outcome.plan.rows if row.row.family == "learned"]
        if found.get(_REFERENCE):
            parts.append("\n".join(_verdicts(learned, found, labels)))
    parts.append(
        "- distance: Euclidean, in the features of the trained network, of a mixed sample to the "
        "nearest real training image whose label is that of neither parent; average and minimum "
        "over the mixed samples of a training.\n"
        "- relative: over the mean distance between real images of different classes. Feature "
        "norms differ between networks, and with them all distances, so the absolute ones say "
        "little between policies. to real: over the average of the first parents, unmixed, to "
        "the nearest image of another class; below 1 mixing brings samples nearer to other "
        "classes than real ones are.\n"
        "- differences are paired over seeds, with 95 % interval and p of the t test, not adjusted "
        "for their number."
    )
    return "\n\n".join(parts)


def _cells(seeds: Any) -> Iterator[str]:
    values = list(seeds)
    for quantity in QUANTITIES:
        yield told(mean_interval([seed[quantity] for seed in values]))


def _verdicts(
    learned: Sequence[StudyRow],
    found: Mapping[str, Mapping[int, Mapping[str, float]]],
    labels: Mapping[str, str],
) -> Iterator[str]:
    """For each learned row whether the claim holds, against MixUp and against its placebo."""
    for row in learned:
        key = row.row.key
        if not found[key]:
            continue
        directions = {}
        told_of = []
        for quantity in _PANELS:
            own, reference = (_values(found[name], quantity) for name in (key, _REFERENCE))
            directions[quantity] = differs(own, reference)
            told_of.append(f"{quantity} {compared(own, reference)}")
        absolute, relative = (
            [directions[quantity] for quantity in names] for names in (_PANELS[:2], _PANELS[2:])
        )
        yield (
            f"- {labels[key]}: the claim of alleviated intrusion, mixed samples farther from other "
            f"classes than MixUp's, {_verdict(absolute)} in absolute distances and "
            f"{_verdict(relative)} in relative ones. Minus {labels[_REFERENCE]}: "
            f"{'; '.join(told_of)}."
        )
        placebo = found.get("placebo")
        if key == "metamixup" and placebo:
            own, other = (_values(seeds, "relative_mean") for seeds in (found[key], placebo))
            yield (
                f"- {labels[key]} − {labels['placebo']}, relative_mean: {compared(own, other)}. "
                "What the placebo shares with learning is the distribution of λ."
            )


def _verdict(directions: Sequence[int]) -> str:
    """Of average and minimum, each 1 (farther), −1 (nearer) or 0 (not told apart)."""
    if min(directions) < 0:
        return "is contradicted" if max(directions) <= 0 else "holds for one and not the other"
    return {2: "holds", 1: "holds for one of average and minimum"}.get(
        sum(directions), "is not supported"
    )


def _values(seeds: Mapping[int, Mapping[str, float]], quantity: str) -> Values:
    return {seed: found[quantity] for seed, found in seeds.items()}
