"""Figure 5: how near mixed samples come to real samples of other classes, by policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from core.lazy import pandas as pd
from core.policies import LearnedConfig
from hpo.report.contrasts import HOLM, Contrast, contrasts, mean_text, verdict
from hpo.report.figure_files import REFERENCE, figure_text, mean_table, seeds_of, written
from hpo.report.outcome import Extra, Outcome
from hpo.report.panels import half_width
from hpo.report.style import FAMILIES, GRAY, WIDTH, canvas, legend_below, short_name
from hpo.study.rows import StudyRow

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
_UNITS = ("distance", "× mean distance between real images of two classes")
_CLAIM = " (the paper's claim of alleviated intrusion)"


def intrusion_bars(outcome: Outcome) -> Extra:
    """Draws the figure; the cells must have been analysed with `mixed_samples`."""
    frame = intrusion_table(outcome)
    return written(outcome, frame, intrusion_figure(frame), _text(outcome))


def intrusion_table(outcome: Outcome) -> pd.DataFrame:
    """Returns a line for each data set, row and quantity of QUANTITIES, with 95 % interval."""

    def means(dataset: str, row: StudyRow) -> Iterator[tuple[list[float], dict[str, str]]]:
        by_seed = distances(outcome, dataset, row)
        for quantity in QUANTITIES:
            values = [seed[quantity] for seed in by_seed.values()]
            yield values, {"family": row.row.family, "quantity": quantity}

    return mean_table(outcome, means, "family", "quantity")


def distances(outcome: Outcome, dataset: str, row: StudyRow) -> dict[int, dict[str, float]]:
    """Returns by seed the QUANTITIES of a row, of trainings that were analysed and have a third
    class."""
    by_seed = {}
    for seed, result in outcome.results(dataset, row).items():
        intrusion = result.analysis.intrusion
        if intrusion and intrusion["samples"]:
            mean, minimum, scale = intrusion["mean"], intrusion["minimum"], intrusion["scale"]
            by_seed[seed] = {
                "mean": mean,
                "minimum": minimum,
                "relative_mean": mean / scale,
                "relative_minimum": minimum / scale,
                "mean_to_real": mean / intrusion["real_mean"],
            }
    return by_seed


def intrusion_figure(frame: pd.DataFrame) -> Figure:
    """Draws two rows of panels for each data set: absolute above, relative below.

    Args:
        frame: of `intrusion_table`, not empty.
    """
    from matplotlib.lines import Line2D

    datasets = list(frame["dataset"].unique())
    rows = frame["method"].nunique()
    figure = canvas(WIDTH, (0.9 + 0.21 * rows) * 2 * len(datasets) + 0.5)
    axes = figure.subplots(2 * len(datasets), 2, squeeze=False, sharey=True)
    for at, (dataset, quantity) in enumerate((d, q) for d in datasets for q in _PANELS):
        ax = axes[at // 2][at % 2]
        _draw(ax, frame[(frame["dataset"] == dataset) & (frame["quantity"] == quantity)])
        ax.set_title(f"{short_name(dataset)}: {QUANTITIES[quantity]}", fontsize=10)
        ax.set_xlabel(_UNITS["relative" in quantity], fontsize=9)
    handles = [
        Line2D([], [], marker="o", color=GRAY, label=seeds_of(frame, "bars")),
        Line2D([], [], color=FAMILIES["beta"][0], lw=0.9, ls="--", label="MixUp (α = 1)"),
    ]
    legend_below(figure, handles, 2)
    return figure


def _draw(ax: Axes, here: pd.DataFrame) -> None:
    lines = here.to_dict("records")
    for y, line in enumerate(lines):
        if line["n_seeds"] == 0:
            ax.text(0.02, y, "no result", transform=ax.get_yaxis_transform(), va="center",
                    fontsize=8, color=GRAY)  # fmt: skip
            continue
        colour, marker = FAMILIES[line["family"]]
        xerr = half_width(line["mean"], line["ci_high"])
        ax.errorbar(line["mean"], y, xerr=xerr, fmt=marker, ms=6, color=colour, capsize=3)
        if line["method"] == REFERENCE:
            ax.axvline(line["mean"], color=colour, lw=0.9, ls="--", zorder=1)
    ax.set_ylim(len(lines) - 0.5, -0.5)
    ax.set_yticks(range(len(lines)), [line["label"] for line in lines], fontsize=9)
    ax.set_xlim(left=0)
    ax.grid(axis="x", lw=0.4, alpha=0.5)


def _text(outcome: Outcome) -> str:
    labels = outcome.labels

    def said(dataset: str) -> tuple[Sequence[str], list[list[str]], Iterator[str]]:
        by_row = {row.row.key: distances(outcome, dataset, row) for row in outcome.plan.rows}
        table = [
            [
                labels[key],
                str(len(seeds)),
                *(mean_text(seed[quantity] for seed in seeds.values()) for quantity in QUANTITIES),
            ]
            for key, seeds in by_row.items()
        ]
        verdicts = _verdicts(outcome.plan.rows, by_row, labels)
        return ("policy", "n", *QUANTITIES), table, verdicts

    note = (
        "- distance: Euclidean, in the features of the trained network, of a mixed sample to the "
        "nearest real training image whose label is that of neither parent; average and minimum "
        "over the mixed samples of a training.\n"
        "- relative: over the mean distance between real images of different classes. Feature "
        "norms differ between networks, and with them all distances, so the absolute ones say "
        "little between policies. to real: over the average of the first parents, unmixed, to "
        "the nearest image of another class; below 1 mixing brings samples nearer to other "
        "classes than real ones are.\n" + HOLM
    )
    title = "Distance of mixed samples to real samples of other classes"
    return figure_text(outcome, title, said, note)


def _verdicts(
    rows: Sequence[StudyRow],
    by_row: Mapping[str, Mapping[int, Mapping[str, float]]],
    labels: Mapping[str, str],
) -> Iterator[str]:
    """Says for each reading whether the claim holds against MixUp, and against its controls."""
    opponents = {
        reading.row.key: [
            REFERENCE,
            *(r.row.key for r in rows if r.row.control_of == reading.row.key),
        ]
        for reading in rows
        if isinstance(reading.policy, LearnedConfig) and not reading.policy.permute
    }
    compared = contrasts(
        {
            (key, other, quantity): (
                {seed: distance[quantity] for seed, distance in by_row[key].items()},
                {seed: distance[quantity] for seed, distance in by_row[other].items()},
            )
            for key, others in opponents.items()
            for other in others
            if by_row[key] and by_row.get(other)
            for quantity in _PANELS
        }
    )
    for key, others in opponents.items():
        for other in others:
            here = {q: compared[key, other, q] for q in _PANELS if (key, other, q) in compared}
            if here:
                claim = _CLAIM if other == REFERENCE else ""
                yield (
                    f"- {labels[key]}, mixed samples farther from other classes than those of "
                    f"{labels[other]}{claim}: {_said(here, _PANELS[:2])} in absolute distance; "
                    f"{_said(here, _PANELS[2:])} in relative distance."
                )


def _said(here: Mapping[str, Contrast], quantities: Sequence[str]) -> str:
    average, minimum = (here[quantity] for quantity in quantities)
    both = verdict([average.direction, minimum.direction])
    return f"{both} (average {average.text()}; minimum {minimum.text()})"
