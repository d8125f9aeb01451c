"""This module draws how λ of a study's rows goes over training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.cells.record import CellRecord
from hpo.report.history import epochs_table
from hpo.report.positive_control import best_of
from hpo.report.records import finished_finals
from hpo.report.style import DASHES, FAMILIES, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hpo.report.panels import Line

QUARTILES = ("lam_q25", "lam_q75")
_MOVING = ("learned", "placebo", "frozen")
"""Families whose λ may move. Of those that draw it, the best by validation is drawn beside them."""

_POINTS = 25
"""At most so many a line: epochs between are averaged, as a batch may share one λ."""


def lambda_curves(
    lines: Sequence[Line], records: Sequence[CellRecord]
) -> dict[str, dict[str, np.ndarray]]:
    """Returns by method epochs and the quartiles of λ, means over seeds and epochs nearby.

    Trainings that kept no quartiles are left out, and those that weight samples and mix nothing.

    Args:
        lines: of the table, one data set.
        records: of that data set.
    """
    curves = {}
    drawn = best_of(lines, ["beta"])
    beside = None if drawn is None else drawn["method"]
    mixing = [record for record in records if not record.cell.training.policy.weights_samples]
    for line in lines:
        moves = line["family"] in _MOVING or line["method"] == beside
        table = epochs_table(finished_finals(mixing, line["method"]), QUARTILES)
        table = table.dropna(subset=list(QUARTILES))
        if moves and not table.empty:
            width = -(-int(table["epoch"].max()) // _POINTS)
            means = table.groupby((table["epoch"] - 1) // width)[["epoch", *QUARTILES]].mean()
            curves[line["method"]] = {name: means[name].to_numpy() for name in means}
    return curves


def lambda_styles(lines: Iterable[Line]) -> dict[str, dict[str, Any]]:
    """Returns by method how its λ is drawn in every panel: in the color of its family, and with
    dashes and marker that no other row of that color has."""
    families = {line["method"]: line["family"] for line in lines}
    taken: Counter[tuple[str, str]] = Counter()
    styles = {}
    for place, (method, family) in enumerate(families.items()):
        color, dashes = FAMILIES[family][0], DASHES[place % len(DASHES)]
        style: dict[str, Any] = {"color": color, "ls": dashes, "lw": 1.6}
        alike = taken[color, dashes]
        styles[method] = style | ({"marker": MARKERS[alike - 1], "ms": 4} if alike else {})
        taken[color, dashes] += 1
    return styles


def draw_lambda(
    ax: Axes,
    lines: Sequence[Line],
    curves: Mapping[str, Mapping[str, np.ndarray]],
    styles: Mapping[str, Mapping[str, Any]],
) -> None:
    """Draws both quartiles of λ over training for each row that has them.

    Half of all λ lie between the two lines of a row: the nearer they are to 0 and 1, the less is
    mixed.
    """
    for line in lines:
        if line["method"] not in curves:
            continue
        curve = curves[line["method"]]
        point = {"marker": FAMILIES[line["family"]][1], "ms": 5} if len(curve["epoch"]) == 1 else {}
        for name in QUARTILES:
            style = {**point, **styles[line["method"]]}
            ax.plot(curve["epoch"], curve[name], **style, label=line["label"])
    ax.set_ylim(-0.02, 1.02)
    ax.set_yticks([0.0, 0.25, 0.5, 0.75, 1.0])
    ax.set_xlabel("epoch")
    ax.set_ylabel("λ, quartiles")
    ax.grid(lw=0.4, alpha=0.5)
