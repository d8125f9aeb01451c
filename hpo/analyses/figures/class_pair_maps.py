"""Figure 7: mean λ of each pair of classes over training, as heat maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from core.lazy import pandas as pd
from hpo.analyses.figures.agreement import Agreement, agreement
from hpo.report.contrasts import mean_text
from hpo.report.figure_files import figure_text, mean_table, written
from hpo.report.outcome import Extra, Outcome
from hpo.report.style import WIDTH, canvas, short_name
from hpo.study.rows import StudyRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Maps = dict[int, dict[int, np.ndarray]]
"""By epoch and seed the mean λ [C, C] by classes, NaN where a pair never came up."""

_NEVER = "#8C8C8C"
"""Colour of a pair that never came up; in the middle of the scale is white."""

_BEYOND = (False, True)

_NAMED_CLASSES = 20
"""More classes are not named at the axes."""


def class_pair_maps(outcome: Outcome) -> Extra:
    """Draws the figure; the cells must have been analysed with `pair_epochs`."""
    frame = pair_table(outcome)
    return written(outcome, frame, pair_figure(frame), _text(outcome))


def pair_table(outcome: Outcome) -> pd.DataFrame:
    """Returns a line for each data set, row, epoch and pair: mean λ over seeds, 95 % interval.

    Columns first_class and second_class: of the sample that has the weight λ, and of its partner.
    agreement is of the seeds' maps of that epoch (`hpo.analyses.figures.agreement`).
    """

    def means(dataset: str, row: StudyRow) -> Iterator[tuple[list[float], dict[str, Any]]]:
        names = outcome.source_of(outcome.plan.base[dataset]).classes
        for epoch, seeds in maps_of(outcome, dataset, row).items():
            stacked = np.stack(list(seeds.values()))
            shared = agreement(list(seeds.values()))
            for (a, first), (b, second) in product(enumerate(names), repeat=2):
                values = stacked[:, a, b]
                there = [float(value) for value in values[~np.isnan(values)]]
                pair = {"first_class": first, "second_class": second}
                yield there, {"epoch": epoch, **pair, "agreement": shared.value}

    return mean_table(outcome, means, "epoch", "first_class", "second_class", "agreement")


def maps_of(outcome: Outcome, dataset: str, row: StudyRow) -> Maps:
    """Returns what the trainings of a row recorded in the epochs that every seed has."""
    maps: Maps = {}
    results = outcome.results(dataset, row)
    for seed, result in results.items():
        analysis = result.analysis
        recorded = zip(analysis.pair_epochs, analysis.pair_lam, strict=True)
        for epoch, lam in recorded:
            maps.setdefault(epoch, {})[seed] = np.array(lam, dtype=float)  # None becomes NaN
    return {epoch: seeds for epoch, seeds in sorted(maps.items()) if len(seeds) == len(results)}


def pair_figure(frame: pd.DataFrame) -> Figure:
    """Draws a row of maps for each data set and row of the study, one for each epoch.

    Colours are the same for all maps of a data set, white at λ = 1/2, where both samples weigh the
    same.

    Args:
        frame: of `pair_table`.

    Raises:
        ValueError: it is empty.
    """
    if frame.empty:
        raise ValueError("no finished training has recorded λ for pairs of classes")
    groups = list(frame.groupby(["dataset", "method"], sort=False))
    columns = max(part["epoch"].nunique() for _, part in groups)
    side = (WIDTH - 2.2) / columns
    figure = canvas(WIDTH, (side + 0.5) * len(groups) + 0.9)
    axes = figure.subplots(len(groups), columns, squeeze=False)
    reaches = (frame["mean"] - 0.5).abs().groupby(frame["dataset"]).max()
    for row, ((dataset, method), part) in zip(axes, groups, strict=True):
        reach = float(reaches[dataset]) or 0.01
        names = list(part["first_class"].unique())
        last = (dataset, method) == groups[-1][0]
        for ax, (epoch, here) in zip(row, part.groupby("epoch"), strict=False):
            lam = here["mean"].to_numpy().reshape(len(names), len(names))
            ax.set_facecolor(_NEVER)  # shows through where there is no λ
            image = ax.imshow(lam, cmap="PuOr", vmin=0.5 - reach, vmax=0.5 + reach)
            _name_classes(ax, names, left=ax is row[0], below=last)
            shared = here["agreement"].iloc[0]
            agreeing = "" if np.isnan(shared) else f"\nseeds agree: {_signed(shared)}"
            ax.set_title(f"epoch {epoch}{agreeing}", fontsize=9)
            if last:
                ax.set_xlabel("class of the partner", fontsize=8.5)
        for unused in row[part["epoch"].nunique() :]:
            unused.set_axis_off()
        label = f"{part['label'].iloc[0]}, {short_name(str(dataset))}"
        row[0].set_ylabel(f"{label}\nclass of the sample weighted λ", fontsize=8.5)
        if (dataset, method) == [key for key, _ in groups if key[0] == dataset][-1]:
            of = f"mean λ of {int(part['n_seeds'].max())} seeds"
            rows = [ax for ax, (key, _) in zip(axes, groups, strict=True) if key[0] == dataset]
            figure.colorbar(image, ax=list(np.concatenate(rows)), label=of, aspect=40, pad=0.01)
    return figure


def _name_classes(ax: Axes, names: Sequence[str], *, left: bool, below: bool) -> None:
    shown = len(names) <= _NAMED_CLASSES
    ticks = list(range(len(names))) if shown else []
    across = ticks if below else []
    down = ticks if left else []
    turned = 90 if max(map(len, names)) > 2 else 0
    ax.set_xticks(across, [names[at] for at in across], fontsize=7.5, rotation=turned)
    ax.set_yticks(down, [names[at] for at in down], fontsize=7.5)


def spread(lam: np.ndarray) -> float:
    """Returns the standard deviation of mean λ over the pairs of classes that came up, [C, C]."""
    return float(np.nanstd(lam))


def _text(outcome: Outcome) -> str:
    head = (
        "policy", "epoch", "n", "spread over pairs", "same class", "others", "seeds agree",
        "beyond the classes",
    )  # fmt: skip

    def said(dataset: str) -> tuple[Sequence[str], list[list[str]], Iterator[str]]:
        table = []
        for row in outcome.plan.rows:
            for epoch, seeds in maps_of(outcome, dataset, row).items():
                maps = list(seeds.values())
                inside = [float(np.nanmean(np.diag(lam))) for lam in maps]
                outside = [float(np.nanmean(lam[~np.eye(len(lam), dtype=bool)])) for lam in maps]
                table.append(
                    [
                        row.row.label,
                        str(epoch),
                        str(len(maps)),
                        mean_text([spread(lam) for lam in maps]),
                        mean_text(inside),
                        mean_text(outside),
                        _agreement_text(agreement(maps)),
                        _agreement_text(agreement(maps, beyond_classes=True)),
                    ]
                )
        return head, table, _verdicts(outcome, dataset)

    note = (
        "- a pair of classes that never came up in an epoch is grey.\n"
        "- spread: standard deviation of mean λ over the pairs. Maps of finitely many samples "
        "always have some: the placebo's, whose hypergradients are of other samples, is that of "
        "chance.\n"
        "- seeds agree: intraclass correlation of the maps of the seeds, the part of a map's "
        "variance that they have in common, with 95 % interval. The paper says that the policy "
        'goes "from a random form to a data specific distribution"; a policy that is specific to '
        "the data is the same for every seed, and the placebo's is near 0. beyond the classes: "
        "the same of what is left after the best sum of a number for each sample's class and one "
        "for its partner's. Only that is specific to the pair."
    )
    return figure_text(outcome, "λ by pairs of classes", said, note)


def _agreement_text(agreement: Agreement) -> str:
    if np.isnan(agreement.value):
        return "–"
    return f"{_signed(agreement.value)} [{_signed(agreement.low)}, {_signed(agreement.high)}]"


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")  # no minus before 0.00


def _verdicts(outcome: Outcome, dataset: str) -> Iterator[str]:
    """Says for each row that learns whether its last map is specific to classes, and to pairs."""
    lasts = {}
    for row in outcome.plan.rows:
        maps = maps_of(outcome, dataset, row)
        if maps:
            seeds = list(maps[max(maps)].values())
            lasts[row.row.key] = [agreement(seeds, beyond_classes=beyond) for beyond in _BEYOND]
    for row in outcome.plan.rows:
        agreements = lasts.get(row.row.key)
        if row.row.family != "learned" or agreements is None or np.isnan(agreements[0].value):
            continue
        control = next(
            (r.row.key for r in outcome.plan.rows if r.row.control_of == row.row.key), ""
        )
        against = lasts.get(control)
        chance = [max(0.0, part.high) for part in against] if against else [0.0, 0.0]
        whole, beyond = (part.low > limit for part, limit in zip(agreements, chance, strict=True))
        if whole and beyond:
            said = "is specific to the data, and to the pair of classes"
        elif whole:
            said = "is specific to the two classes; that it is to their pair is not shown"
        else:
            said = "is not shown to be specific to the data"
        text = f"- {row.row.label}, last epoch: λ {said}. Between seeds it agrees by "
        everywhere, specific = map(_agreement_text, agreements)
        text += f"{everywhere}, beyond the classes by {specific}"
        if against:
            plain, beyond_classes = map(_agreement_text, against)
            text += f"; the placebo's by {plain} and {beyond_classes}"
        yield f"{text}."
