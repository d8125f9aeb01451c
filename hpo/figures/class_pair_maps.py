"""Figure 7: mean λ of each pair of classes over training, as heat maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hpo.figures.common import canvas, results_of, table_line, told, written
from hpo.markdown import padded_table
from hpo.outcome import Extra, Outcome
from hpo.plan import StudyRow
from hpo.plot_panels import short_name
from hpo.statistics import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Maps = dict[int, dict[int, np.ndarray]]
"""By epoch and seed the mean λ [C, C] by classes, NaN where a pair never came up."""

_NEVER = "#8C8C8C"
"""Colour of a pair that never came up; in the middle of the scale is white."""

_NAMED_CLASSES = 20
"""More classes are not named at the axes."""


def class_pair_maps(outcome: Outcome) -> Extra:
    """Draw the figure; the cells must have been analysed with `pair_epochs`."""
    frame = pair_table(outcome)
    return written(outcome, frame, pair_figure(frame), _text(outcome))


def pair_table(outcome: Outcome) -> pd.DataFrame:
    """One line for each data set, row, epoch and pair: mean λ over seeds with 95 % interval.

    Columns first_class and second_class: of the sample that has the weight λ, and of its partner.
    """
    lines: list[dict[str, Any]] = []
    for dataset in outcome.plan.datasets:
        names = next(s.classes for key, s in outcome.sources.items() if key[0] == dataset)
        for row in outcome.plan.rows:
            for epoch, seeds in maps_of(outcome, dataset, row).items():
                stacked = np.stack(list(seeds.values()))
                for a, first in enumerate(names):
                    for b, second in enumerate(names):
                        values = stacked[:, a, b]
                        there = [float(value) for value in values[~np.isnan(values)]]
                        lines.append(
                            {
                                "dataset": dataset,
                                "method": row.row.key,
                                "label": row.row.label,
                                "epoch": epoch,
                                "first_class": first,
                                "second_class": second,
                                **table_line(mean_interval(there)),
                            }
                        )
    columns = ["dataset", "method", "label", "epoch", "first_class", "second_class"]
    return pd.DataFrame(lines, columns=[*columns, "n_seeds", "mean", "ci_low", "ci_high"])


def maps_of(outcome: Outcome, dataset: str, row: StudyRow) -> Maps:
    """What the trainings of a row have recorded; epochs that not every seed has are left out."""
    maps: Maps = {}
    results = results_of(outcome, dataset, row)
    for seed, result in results.items():
        found: Mapping[str, Any] = result.get("findings") or {}
        recorded = zip(found.get("pair_epochs", ()), found.get("pair_lam", ()), strict=True)
        for epoch, lam in recorded:
            maps.setdefault(epoch, {})[seed] = np.array(lam, dtype=float)  # None becomes NaN
    return {epoch: seeds for epoch, seeds in sorted(maps.items()) if len(seeds) == len(results)}


def pair_figure(frame: pd.DataFrame) -> Figure:
    """A row of maps for each data set and row of the study, one for each epoch.

    Colours are about the mean of a row of maps, so that what differs between pairs can be seen.

    Args:
        frame: of `pair_table`.

    Raises:
        ValueError: it is empty.
    """
    if frame.empty:
        raise ValueError("no finished training has recorded λ for pairs of classes")
    groups = list(frame.groupby(["dataset", "method"], sort=False))
    columns = max(part["epoch"].nunique() for _, part in groups)
    figure = canvas(3.5 * columns + 1.2, 3.6 * len(groups))
    axes = figure.subplots(len(groups), columns, squeeze=False)
    for row, ((dataset, _), part) in zip(axes, groups, strict=True):
        middle = float(part["mean"].mean())
        reach = float((part["mean"] - middle).abs().max()) or 0.01
        names = list(part["first_class"].unique())
        for ax, (epoch, here) in zip(row, part.groupby("epoch"), strict=False):
            lam = here["mean"].to_numpy().reshape(len(names), len(names))
            ax.set_facecolor(_NEVER)  # shows through where there is no λ
            image = ax.imshow(lam, cmap="PuOr", vmin=middle - reach, vmax=middle + reach)
            _name_classes(ax, names, first=ax is row[0])
            ax.set_title(f"{here['label'].iloc[0]}\nepoch {epoch}", fontsize=9)
            ax.set_xlabel("class of the partner", fontsize=8)
        for unused in row[part["epoch"].nunique() :]:
            unused.set_axis_off()
        row[0].set_ylabel(f"{short_name(str(dataset))}\nclass of the sample weighted λ", fontsize=8)
        figure.colorbar(image, ax=list(row), label="mean λ", shrink=0.85)
    return figure


def _name_classes(ax: Axes, names: Sequence[str], *, first: bool) -> None:
    if len(names) > _NAMED_CLASSES:
        return
    longest = max(map(len, names))
    ax.set_xticks(range(len(names)), names, fontsize=6.5, rotation=90 if longest > 2 else 0)
    ax.set_yticks(range(len(names)), names if first else [], fontsize=6.5)


def spread(lam: np.ndarray) -> float:
    """Standard deviation of mean λ over the pairs of classes that came up, [C, C]."""
    return float(np.nanstd(lam))


def agreement(seeds: Mapping[int, np.ndarray]) -> float:
    """Mean correlation of the maps of two seeds, over the pairs of classes that both have.

    Near 0 the maps of different seeds have nothing in common, and what they show is chance; near 1
    they show the data. NaN for fewer than two seeds.
    """
    found = []
    for one, other in combinations(seeds.values(), 2):
        both = ~(np.isnan(one) | np.isnan(other))
        if both.sum() > 2 and one[both].std() > 0 and other[both].std() > 0:
            found.append(float(np.corrcoef(one[both], other[both])[0, 1]))
    return sum(found) / len(found) if found else float("nan")


def _text(outcome: Outcome) -> str:
    parts = ["## λ by pairs of classes"]
    head = ("policy", "epoch", "n", "spread over pairs", "same class", "others", "agreement")
    for dataset in outcome.plan.datasets:
        table = []
        for row in outcome.plan.rows:
            for epoch, seeds in maps_of(outcome, dataset, row).items():
                maps = list(seeds.values())
                shared = agreement(seeds)
                inside = [float(np.nanmean(np.diag(lam))) for lam in maps]
                outside = [float(np.nanmean(lam[~np.eye(len(lam), dtype=bool)])) for lam in maps]
                table.append(
                    [
                        row.row.label,
                        str(epoch),
                        str(len(maps)),
                        told(mean_interval([spread(lam) for lam in maps])),
                        told(mean_interval(inside)),
                        told(mean_interval(outside)),
                        "–" if np.isnan(shared) else f"{shared:+.2f}",
                    ]
                )
        parts += [f"{dataset}:", padded_table(head, table)]
    parts.append(
        "- a pair of classes that never came up in an epoch is grey.\n"
        "- spread: standard deviation of mean λ over the pairs. Maps of finitely many samples "
        "always have some: the placebo's, whose hypergradients are of other samples, is that of "
        "chance.\n"
        "- agreement: mean correlation of the maps of two seeds. The paper says that the policy "
        'goes "from a random form to a data specific distribution"; a policy that is specific to '
        "the data is the same for every seed, and has an agreement well above the placebo's."
    )
    return "\n\n".join(parts)
