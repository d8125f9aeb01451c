"""Readings of MetaMixUp compared: how far each moves λ, its histogram, its error, its cost.

Reads what a study ended with. The tests behind a verdict are corrected by Holm's method for their
number on one data set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from core.lazy import pandas as pd
from core.policies import LearnedConfig
from core.training.config import TrainingConfig
from core.training.result import TrainingResult
from hpo.report.contrasts import LEVEL, contrasts, family
from hpo.report.outcome import Outcome
from hpo.report.records import Results
from hpo.report.statistics import mean_interval
from hpo.study.rows import StudyRow
from hpo.study.variants import META_SUFFIX

END = 0.1
"""λ is "near" 0 or 1 within this distance."""

MIXUP, NO_MIXUP = "beta-1", "none"
"""Rows that Table I's order is about."""

FACTORS = (
    "projection", "gradient", "scale", "step_size", "init_alpha", "inner_step", "meta_steps",
)  # fmt: skip
_ERRORS = (
    "mean_error", "ci_low", "ci_high", "n_seeds", "diff_vs_best_beta", "diff_ci_low",
    "diff_ci_high", "p_holm",
)  # fmt: skip
"""Of the study's table."""
RANKED_COLUMNS = (
    "dataset", "rank", "method", "label", "family", *FACTORS, "meta_size", "overlap", "moves",
    "moves_last", "near_0_first", "near_1_first", "near_0", "near_1", "fig6", "fig6_p_holm",
    *_ERRORS, "diff_vs_mixup", "mixup_ci_low", "mixup_ci_high", "mixup_p_holm", "table1",
    "time_ratio", "samples_ratio",
)  # fmt: skip
"""Of the ranked table. moves and near_* are fractions, errors and differences percent."""

_NAN = float("nan")


def rank_readings(outcome: Outcome) -> pd.DataFrame:
    """Returns one line for each data set and row, by mean test error; see RANKED_COLUMNS.

    - moves: |λ* − λ*(nothing learned)|, mean over samples, epochs and seeds; moves_last that of the
      last epoch.
    - near_0, near_1: part of λ within 0.1 of 0 and of 1 in the last epoch, all seeds together;
      `near_0_first` and `near_1_first` in the first.
    - fig6 holds a reading against "a higher frequency of 0 and 1" than MixUp's (Fig. 6), and than
      that it started with: at both ends the part is higher than that of λ ~ U(0, 1), 0.1, and than
      that of the reading's λ* before learning. The test is binomial, as if λ of one batch were
      independent; p is the larger of both ends'. "yes": p < 0.05 in the last epoch; "early": in
      the first epoch alone; "no". fig6_p_holm is the last epoch's.
    - table1 holds it against the order MetaMixUp < MixUp < no MixUp, row "beta-1" being MixUp, by
      mean differences over shared seeds. "yes": that order, both with p < 0.05; "means": that order
      of means alone; "no"; "" where a row is missing. Readings whose meta-validation images train
      are held against the "+meta" rows.
    - time_ratio, samples_ratio: in units of the row "none", a search included.

    Rows that are no reading have verdicts "" and factors left empty.
    """
    lines: list[dict[str, Any]] = []
    for dataset in outcome.plan.datasets:
        results = {row.row.key: outcome.results(dataset, row) for row in outcome.plan.rows}
        table = outcome.frame[outcome.frame["dataset"] == dataset].set_index("method")
        here = [
            _line(row, outcome.plan.base[dataset], table.loc[row.row.key], results[row.row.key])
            for row in outcome.plan.rows
        ]
        readings = {line["method"]: line for line in here if line["scale"]}
        _judge_histograms(readings, results)
        _judge_order(readings, results)
        _count_cost(here, table)
        here.sort(key=lambda line: (math.isnan(line["mean_error"]), line["mean_error"]))
        lines += [{**line, "rank": rank} for rank, line in enumerate(here, 1)]
    return pd.DataFrame(lines, columns=list(RANKED_COLUMNS))


def start_share(projection: str, init_alpha: float) -> float:
    """Returns the part of λ* near 0, equal to that near 1, of a reading before it learns anything.

    By the sigmoid "after" λ* starts within [0.50, 0.73].
    """
    from scipy import stats

    if projection == "sigmoid_after":
        return 0.0
    return float(stats.beta.cdf(END, init_alpha, init_alpha))


def near_ends(histogram: Sequence[int]) -> tuple[int, int, int]:
    """Counts of λ near 0 and near 1, and of all, of a histogram of equal bins over [0, 1]."""
    bins = round(END * len(histogram))
    return sum(histogram[:bins]), sum(histogram[-bins:]), sum(histogram)


def _line(
    row: StudyRow, base: TrainingConfig, entry: Mapping[str, Any], results: Results
) -> dict[str, Any]:
    policy = row.policy
    reading = policy.reading if isinstance(policy, LearnedConfig) and not policy.permute else None
    line: dict[str, Any] = dict.fromkeys(RANKED_COLUMNS, _NAN)
    line |= {factor: "" if reading is None else getattr(reading, factor) for factor in FACTORS}
    line |= {name: entry[name] for name in ("label", "family", *_ERRORS)}
    line |= {
        "dataset": base.dataset,
        "method": row.row.key,
        "meta_size": row.training.get("meta_size", base.meta_size),
        "overlap": row.meta_in_training,
        "moves": mean_interval([moves(result) for result in results.values()]).mean,
        "moves_last": mean_interval([moves(r, last=True) for r in results.values()]).mean,
        "fig6": "",
        "table1": "",
    }
    for name, when in (("lam_histogram_first", "_first"), ("lam_histogram", "")):
        low, high, all_of_them = near_ends(_histogram(results, name))
        if all_of_them:
            line[f"near_0{when}"] = low / all_of_them
            line[f"near_1{when}"] = high / all_of_them
    return line


def moves(result: TrainingResult, *, last: bool = False) -> float:
    """Returns how much learning changes λ, on the mean of the epochs or in the last one; NaN where
    that was not recorded."""
    history = result.history[-1:] if last else result.history
    changes = [epoch["lam_change"] for epoch in history if "lam_change" in epoch]
    return math.fsum(changes) / len(changes) if changes else _NAN


def _histogram(results: Results, name: str) -> list[int]:
    """Returns a histogram summed over seeds."""
    counts = [getattr(result, name) for result in results.values()]
    return [int(n) for n in np.sum(counts, axis=0)] if counts else [0] * 20


def _judge_histograms(
    readings: Mapping[str, dict[str, Any]], results: Mapping[str, Results]
) -> None:
    """Fills in fig6; one family of tests for the first and the last epochs of a data set."""
    from scipy import stats

    tests: dict[tuple[str, str], float] = {}
    for key, line in readings.items():
        reference = max(END, start_share(line["projection"], line["init_alpha"]))
        for name in ("lam_histogram", "lam_histogram_first"):
            low, high, everything = near_ends(_histogram(results[key], name))
            tests[key, name] = (
                # Higher at 0 and at 1: the weaker of both decides.
                max(float(stats.binom.sf(n - 1, everything, reference)) for n in (low, high))
                if everything
                else _NAN
            )
    adjusted = family(tests)
    for key, line in readings.items():
        last, first = adjusted[key, "lam_histogram"], adjusted[key, "lam_histogram_first"]
        line["fig6_p_holm"] = last
        if not math.isnan(last):
            early = "early" if first < LEVEL else "no"
            line["fig6"] = "yes" if last < LEVEL else early


def _judge_order(readings: Mapping[str, dict[str, Any]], results: Mapping[str, Results]) -> None:
    """Fills in the comparison with MixUp, and table1."""
    errors = {key: {s: r.test_error for s, r in of.items()} for key, of in results.items()}
    suffixes = {key: META_SUFFIX if line["overlap"] else "" for key, line in readings.items()}
    pairs = {("", s): (MIXUP + s, NO_MIXUP + s) for s in ("", META_SUFFIX)}
    pairs |= {(key, s): (key, MIXUP + s) for key, s in suffixes.items()}
    compared = contrasts(
        {key: (errors.get(a, {}), errors.get(b, {})) for key, (a, b) in pairs.items()}
    )
    for key, suffix in suffixes.items():
        contrast, reference = compared[key, suffix], compared["", suffix]
        names = ("diff_vs_mixup", "mixup_ci_low", "mixup_ci_high")
        readings[key] |= zip(names, contrast.paired, strict=False)
        readings[key]["mixup_p_holm"] = contrast.p_holm
        if contrast.paired.n and reference.paired.n:
            ordered = contrast.paired.difference < 0 and reference.paired.difference < 0
            supported = all(c.p_holm < LEVEL for c in (contrast, reference))  # NaN is neither
            readings[key]["table1"] = ("yes" if supported else "means") if ordered else "no"


def _count_cost(lines: Sequence[dict[str, Any]], table: pd.DataFrame) -> None:
    if NO_MIXUP not in table.index:
        return
    unit = table.loc[NO_MIXUP]
    for line in lines:
        cost = table.loc[line["method"]]
        line["time_ratio"] = cost["train_seconds"] / unit["train_seconds"]
        line["samples_ratio"] = cost["samples_seen"] / unit["samples_seen"]
