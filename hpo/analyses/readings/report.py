"""The part of a study of readings that ranks them; see `hpo.analyses.readings.ranking`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.lazy import pandas as pd
from hpo.analyses.readings.factorial import DesignPoint, main_effects
from hpo.analyses.readings.figure import readings_figure
from hpo.analyses.readings.ranking import rank_readings
from hpo.report.contrasts import LEVEL
from hpo.report.markdown import difference, error, number, padded_table, plus_minus, probability
from hpo.report.outcome import Extra, Outcome
from hpo.report.style import save_figure
from hpo.storage.atomic import write_csv

_RANKED = (
    "reading", "#", "moves", "last epoch", "near 0", "near 1", "Fig. 6", "error (%)", "− best Beta",
    "p (Holm)", "− MixUp", "p (Holm)", "Table I", "cost", "samples",
)  # fmt: skip
_EFFECTS = ("factor", "level", "readings", "moves", "error (%)", "− all")
_NAMED = 12
"""Readings of a verdict that are named one by one."""


def readings_report(outcome: Outcome, design: Sequence[DesignPoint]) -> Extra:
    """Ranks the readings of a study, and averages them over the factorial `design`.

    Writes STUDY-ranked.csv, STUDY-effects.csv (fractions and percent to six digits) and
    STUDY-lambda.png below the output folder.
    """
    ranked, effects = rank_readings(outcome), main_effects(outcome, design)
    files = [*map(outcome.file, ("ranked.csv", "effects.csv", "lambda.png"))]
    for path, frame in zip(files, (ranked, effects), strict=False):
        write_csv(path, frame, "%.6g")
    save_figure(readings_figure(ranked, outcome.records), files[-1])
    return Extra(to_markdown(ranked, effects), files)


def to_markdown(ranked: pd.DataFrame, effects: pd.DataFrame) -> str:
    """Returns the ranked table, what follows from it, and the main effects, for each data set."""
    parts: list[str] = []
    for dataset in ranked["dataset"].unique():
        lines = ranked[ranked["dataset"] == dataset].to_dict("records")
        means = effects[effects["dataset"] == dataset].to_dict("records")
        parts += [f"## Readings, ranked: {dataset}"]
        parts += [padded_table(_RANKED, [_cells(line) for line in lines]), _verdicts(lines)]
        if means:
            parts += [f"### Main effects: {dataset}"]
            parts += [padded_table(_EFFECTS, [_effect(line) for line in means])]
    return "\n\n".join([*parts, _LEGEND])


def _cells(line: Mapping[str, Any]) -> tuple[str, ...]:
    best = (line["diff_vs_best_beta"], line["diff_ci_low"], line["diff_ci_high"])
    mixup = (line["diff_vs_mixup"], line["mixup_ci_low"], line["mixup_ci_high"])
    return (
        line["label"],
        str(line["rank"]),
        number(line["moves"], "{:.4f}"),
        number(line["moves_last"], "{:.4f}"),
        number(100 * line["near_0"], "{:.0f} %"),
        number(100 * line["near_1"], "{:.0f} %"),
        line["fig6"] or "–",
        error(line),
        difference(*best),
        probability(line["p_holm"]),
        difference(*mixup),
        probability(line["mixup_p_holm"]),
        line["table1"] or "–",
        number(line["time_ratio"], "{:.2f}×"),
        number(line["samples_ratio"], "{:.2f}×"),
    )


def _effect(line: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        line["factor"],
        line["level"],
        str(line["readings"]),
        plus_minus(line["moves"], line["moves_high"], ".3f"),
        error(line),
        difference(line["diff"], line["diff_low"], line["diff_high"]),
    )


def _verdicts(lines: Sequence[Mapping[str, Any]]) -> str:
    """Says which readings reproduce Fig. 6, and the order of Table I."""
    readings = [line for line in lines if line["fig6"] or line["table1"]]
    moving = [line for line in readings if line["moves"] >= 0.01]
    shown = [line for line in readings if line["fig6"] == "yes"]
    ordered = [line for line in readings if line["table1"] in ("yes", "means")]
    supported = [line for line in readings if line["table1"] == "yes"]
    # Where meta-validation images train, more images do than those of the best Beta.
    fair = [line for line in readings if not line["overlap"]]
    better = [line for line in fair if line["diff_ci_high"] < 0 and line["p_holm"] < LEVEL]
    groups = {
        "move λ by 0.01 or more on average": moving,
        "show Fig. 6 in the last epoch": shown,
        "show it in the first epoch alone": [e for e in readings if e["fig6"] == "early"],
    }
    if any(line["table1"] for line in readings):  # else a row that it is about is missing
        groups |= {
            "have the order of Table I in their means": ordered,
            "have it with both differences at p < 0.05 (Holm)": supported,
            "show Fig. 6 and have that order": [line for line in shown if line in ordered],
        }
    groups["are below the best Beta at p < 0.05 (Holm), trained on as many images"] = better
    said = [f"- {len(group)} {what}{_names(group)}" for what, group in groups.items()]
    return "\n".join([f"Of {len(readings)} readings", "", *said])


def _names(lines: Sequence[Mapping[str, Any]]) -> str:
    names = ", ".join(f"`{line['method']}`" for line in lines[:_NAMED])
    more = len(lines) - _NAMED
    if not lines:
        return "."
    return f": {names}" + (f" and {more} more." if more > 0 else ".")


_LEGEND = (
    "- moves: |λ* − λ* with nothing learned|, mean over samples and epochs; beside it that of the"
    " last epoch. (Cosine annealing ends at a learning rate of 0, and with the scales mean and "
    "sum so does the move.)\n"
    "- near 0, near 1: part of λ within 0.1 of it in the last epoch.\n"
    '- Fig. 6 ("a higher frequency of 0 and 1"): yes, if both parts are higher than those of '
    "MixUp's Beta(1), 10 % each, and than those that the reading starts from, in the last epoch; "
    "early, if in the first epoch alone. Binomial test at each end, the weaker end counts, p < "
    "0.05 after Holm's method for all readings and both epochs.\n"
    "- Table I: the order reading < MixUp (row `beta-1`) < no MixUp. yes, if both paired "
    "differences have p < 0.05 after Holm's method; means, if the means alone have that order. "
    "(In the paper's Table I MNIST and ImageNet have MixUp above no MixUp.) − MixUp and Table I "
    "hold readings whose meta-validation images train against the `+meta` rows; − best Beta "
    "compares them with a row of fewer images.\n"
    "- main effects: mean over the combinations of the factorial that have the level, with 95 % "
    "interval over seeds; − all: paired over seeds with the mean of all combinations.\n"
    "- cost, samples: training time and samples sent forward, in units of no MixUp, a search "
    "included."
)
