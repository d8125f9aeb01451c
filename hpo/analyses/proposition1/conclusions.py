"""This module says in sentences what the numbers of Proposition 1 let one conclude."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from core.lazy import pandas as pd
from hpo.analyses.proposition1.comparison import REFERENCE
from hpo.report.contrasts import LEVEL
from hpo.report.markdown import adjusted

_LOOSE = 0.5
"""A bound of which the median pair attains less than this part is called loose."""


def conclusions(
    compared: pd.DataFrame, changed: pd.DataFrame, labels: Mapping[str, str]
) -> list[str]:
    """Returns sentences on one data set: on (P2), on its tightness, and on what minimizing MixUp's
    loss does to κ.

    Args:
        compared: of `hpo.analyses.proposition1.comparison.compare_curvature`.
        changed: of `hpo.analyses.proposition1.comparison.compare_over_training`.
        labels: of the rows, by key.
    """
    return [*_inequality(compared), *_along(changed, labels), *_between(compared, labels)]


def _inequality(compared: pd.DataFrame) -> Iterator[str]:
    above, largest = int(compared["above"].sum()), compared["share"].max()
    inequality = (
        "(P2) holds for every pair in every look"
        if not above
        else f"(P2) is above its estimated bound for {above} pairs; see the growth of the estimate"
    )
    low, high = compared["share_median"].min(), compared["share_median"].max()
    tight = "a loose bound" if high < _LOOSE else "not a loose bound everywhere"
    yield (
        f"- {inequality}. After the last epoch the median pair attains {low:.2f} to {high:.2f} of "
        f"the κ of its segment, by policy and output (any pair of any look at most {largest:.2f}): "
        f"{tight}, and what κ is cannot be read off the left side."
    )


def _along(changed: pd.DataFrame, labels: Mapping[str, str]) -> Iterator[str]:
    """Says whether κ fell where MixUp's loss did, along the training of each policy."""
    fell, grew = 0, {"probability": 0, "logit": 0}
    for method, lines in changed.groupby("method", sort=False):
        by = {line["quantity"]: line for line in lines.to_dict("records")}
        if not {"loss", "probability"} <= by.keys():
            continue
        kappas = [by[name] for name in ("probability", "logit") if name in by]
        changes = " and ".join(f"κ of the {line['quantity']} {_moved(line)}" for line in kappas)
        yield (
            f"- {labels[str(method)]}, from epoch {by['loss']['first_epoch']} to "
            f"{by['loss']['last_epoch']}: MixUp's ℓ1 loss {_moved(by['loss'])}, {changes}. "
            f"{_meaning(_direction(by['loss']), [_direction(line) for line in kappas])}"
        )
        if by["loss"]["last_over_first"] < 1:
            fell += 1
            for line in kappas:
                grew[line["quantity"]] += int(line["last_over_first"] > 1)
    if fell:
        yield (
            "- In the means over seeds, tested or not, policies with which the loss falls: "
            f"{fell}; with {grew['probability']} of these κ of the probability grows, with "
            f"{grew['logit']} κ of the logit."
        )


def _meaning(loss: int, kappas: list[int]) -> str:
    """Returns a sentence on directions: 1 is larger, −1 smaller, 0 not told apart."""
    if loss >= 0:
        return "The loss is not shown to fall, so this says nothing on what its fall does to κ."
    if all(direction > 0 for direction in kappas):
        return "While the loss fell κ grew: to minimize it did not control κ here."
    if all(direction < 0 for direction in kappas):
        return "While the loss fell κ fell: as the paper has it."
    if any(direction > 0 for direction in kappas):
        return "While the loss fell κ of one output grew: its fall alone does not control κ."
    return "While the loss fell κ is not shown to fall with it."


def _between(compared: pd.DataFrame, labels: Mapping[str, str]) -> Iterator[str]:
    """Says whether policies that train on mixed images end with a smaller κ than none."""
    lines = [line for line in compared.to_dict("records") if line["method"] != REFERENCE]
    tested = [line for line in lines if line["p_holm"] == line["p_holm"]]
    if not tested:
        return
    smaller = [line for line in tested if line["p_holm"] < LEVEL and line["kappa_over_none"] < 1]
    larger = [line for line in tested if line["p_holm"] < LEVEL and line["kappa_over_none"] > 1]
    named = ", ".join(f"{labels[line['method']]} ({line['output']})" for line in smaller)
    yield (
        f"- Against training without mixing, of {len(tested)} comparisons of a policy and an "
        f"output κ is smaller in {len(smaller)}{': ' + named if named else ''}; larger in "
        f"{len(larger)}; not told apart in {len(tested) - len(smaller) - len(larger)}. "
        f"In the means it is smaller in {sum(line['kappa_over_none'] < 1 for line in tested)}."
    )


def _direction(line: Mapping[str, Any]) -> int:
    if not line["p_holm"] < LEVEL:
        return 0
    return 1 if line["last_over_first"] > 1 else -1


def _moved(line: Mapping[str, Any]) -> str:
    words = {1: "grows to", -1: "falls to", 0: "is not told apart from what it was:"}
    text = f"{words[_direction(line)]} {line['last_over_first']:.3g}×"
    if line["n_seeds"] > 1:
        text += f" [{line['ci_low']:.2g}, {line['ci_high']:.2g}], {adjusted(line['p_holm'])}"
    return text
