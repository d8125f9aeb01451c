"""Error and loss on the meta-validation images over the step size of what learns λ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from core.lazy import pandas as pd
from core.policies.learned_config import MetaStageConfig
from hpo.report.contrasts import LEVEL, Values, contrasts, interval_text
from hpo.report.figure_files import drawn, interval_columns, row_line, seeds_of
from hpo.report.markdown import adjusted, difference, padded_table
from hpo.report.outcome import Extra, Outcome
from hpo.report.statistics import MeanInterval, lowest
from hpo.report.style import COLORS, WIDTH, canvas, legend_below, short_name
from hpo.study.rows import StudyRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEASURES: Mapping[str, str] = {
    "val_error": "meta-validation error (%)",
    "val_loss": "meta-validation loss (nats)",
}

COLUMNS = (
    "dataset", "method", "label", "policy", "step_size", "default", "measure", "n_seeds", "mean",
    "ci_low", "ci_high", "difference", "diff_ci_low", "diff_ci_high", "p_value", "p_holm",
)  # fmt: skip
"""Of `STUDY-steps.csv`; see `step_sizes`."""

Steps = Mapping[float, StudyRow]
"""Rows of one policy, by step size."""


def step_sizes(outcome: Outcome) -> Extra:
    """Writes `STUDY-steps.csv` (a line for each data set, policy, measure of MEASURES and step
    size) and `.png`, and says which step meta-validation chooses.

    Its columns: policy (its kind), step_size, default (whether it is that of the policy), measure,
    mean over seeds with 95 % interval, and against the default's the paired difference with
    interval, p_value, and p_holm over the steps of that policy and measure. A study in which no
    policy was trained with two steps has no such part.
    """
    lines = [line for data in outcome.plan.datasets for line in _lines(outcome, data)]
    if not lines:
        return Extra()
    frame = pd.DataFrame(lines, columns=list(COLUMNS))
    csv, picture = drawn(outcome, "steps", frame, steps_figure(frame), "%.6g")
    said = [
        _said(str(dataset), str(policy), here)
        for (dataset, policy), here in frame.groupby(["dataset", "policy"], sort=False)
    ]
    return Extra(
        "\n\n".join(["## Step sizes", f"![steps]({picture.name})", *said, _NOTE]) + "\n",
        [csv, picture],
    )


_NOTE = (
    "- chosen: of the steps with the most finished seeds the lowest mean error on the "
    "meta-validation images, of equal ones the lowest mean loss. A default stays unless the error "
    "of the step that is chosen is told apart from the default's: differences are paired over "
    "seeds, p adjusted by Holm's method for the steps of a policy."
)


def chosen(here: pd.DataFrame) -> float:
    """Returns the step size that the meta-validation images choose.

    Args:
        here: the lines of one data set and policy.
    """
    means = here.pivot(index="step_size", columns="measure", values="mean").fillna(math.inf)
    lines = means.assign(n_seeds=here.groupby("step_size")["n_seeds"].max()).reset_index()
    best = lowest(lines.to_dict("records"), lambda line: (line["val_error"], line["val_loss"]))
    assert best is not None
    return float(best["step_size"])


def steps_figure(frame: pd.DataFrame) -> Figure:
    """Draws both measures over the step size, a row of panels for each data set.

    Args:
        frame: of `step_sizes`.
    """
    datasets = list(frame["dataset"].unique())
    figure = canvas(WIDTH, 0.6 + 3.0 * len(datasets))
    axes = figure.subplots(len(datasets), len(MEASURES), squeeze=False)
    policies = list(frame["policy"].unique())
    for row, dataset in zip(axes, datasets, strict=True):
        for ax, (measure, title) in zip(row, MEASURES.items(), strict=True):
            here = frame[(frame["dataset"] == dataset) & (frame["measure"] == measure)]
            for policy, lines in here.groupby("policy", sort=False):
                _draw(ax, lines, COLORS[policies.index(policy)], policy)
            ax.set_xscale("log")
            ax.set(xlabel="step size", ylabel=title)
            ax.set_title(short_name(dataset), loc="left")
            ax.grid(lw=0.4, alpha=0.5)
    what = f"{seeds_of(frame, 'bars')}; filled: the default"
    legend_below(figure, axes.flat, len(policies), what)
    return figure


def _draw(ax: Axes, lines: pd.DataFrame, color: str, policy: str) -> None:
    low, high = lines["mean"] - lines["ci_low"], lines["ci_high"] - lines["mean"]
    bars = [low.fillna(0), high.fillna(0)]
    ax.errorbar(lines["step_size"], lines["mean"], bars, fmt="o-", mfc="none", color=color,
                capsize=2, lw=1, label=policy)  # fmt: skip
    default = lines[lines["default"]]
    ax.plot(default["step_size"], default["mean"], "o", color=color)


def _lines(outcome: Outcome, dataset: str) -> list[dict[str, Any]]:
    return [
        line
        for policy, steps in _policies(outcome.plan.rows).items()
        for measure in MEASURES
        for line in _of(outcome, dataset, policy, steps, measure)
    ]


def _policies(rows: Sequence[StudyRow]) -> dict[str, Steps]:
    """Returns the rows that differ from a policy's default in the step size alone, by kind."""
    policies: dict[str, dict[float, StudyRow]] = {}
    for row in rows:
        policy = row.policy
        if isinstance(policy, MetaStageConfig) and row.differs_in_policy_alone:
            default, step = type(policy)(), policy.reading.step_size
            if policy == replace(default, reading=replace(default.reading, step_size=step)):
                policies.setdefault(policy.to_dict()["kind"], {})[step] = row
    return {kind: dict(sorted(steps.items())) for kind, steps in policies.items()}


def _of(
    outcome: Outcome, dataset: str, policy: str, steps: Steps, measure: str
) -> list[dict[str, Any]]:
    """Returns a line for each step that has results, none where there are fewer than two."""
    values = {step: _values(outcome, dataset, row, measure) for step, row in steps.items()}
    values = {step: by_seed for step, by_seed in values.items() if by_seed}
    if len(values) < 2:
        return []
    default = _default(steps)
    against = contrasts(
        {
            step: (by_seed, values[default])
            for step, by_seed in values.items()
            if default in values and step != default
        }
    )
    return [
        row_line(
            dataset, steps[step], policy=policy, step_size=step, default=step == default,
            measure=measure,
        )
        | interval_columns(by_seed.values())
        | (against[step].columns() if step in against else {})
        for step, by_seed in values.items()
    ]  # fmt: skip


def _values(outcome: Outcome, dataset: str, row: StudyRow, measure: str) -> Values:
    results = outcome.results(dataset, row)
    return {seed: float(result.history[-1][measure]) for seed, result in results.items()}


def _default(steps: Steps) -> float:
    """Returns the step size that the policy has of itself."""
    policy = next(iter(steps.values())).policy
    assert isinstance(policy, MetaStageConfig)
    return type(policy)().reading.step_size


def _said(dataset: str, policy: str, here: pd.DataFrame) -> str:
    """Returns the table of a data set and policy, and what it says of the default."""
    best = chosen(here)
    lines = []
    for step, of_step in here.groupby("step_size", sort=True):
        shown = [f"{step:g}" + (" (default)" if of_step["default"].any() else "")]
        by_measure = of_step.set_index("measure")
        for measure, digits in (("val_error", 2), ("val_loss", 3)):
            line = by_measure.loc[measure]
            interval = (line["mean"], line["ci_low"], line["ci_high"], line["n_seeds"])
            shown.append(interval_text(MeanInterval(*interval), digits))
        lines.append(shown)
    table = padded_table(("step size", *MEASURES.values()), lines)
    error = here[(here["measure"] == "val_error") & (here["step_size"] == best)].iloc[0]
    verdict = f"the lowest mean error has step {best:g}"
    if error["default"]:
        verdict += ", the default."
    elif math.isnan(error["p_holm"]):
        verdict += "; the default was not trained, or with no seed in common."
    else:
        told = "is told apart" if error["p_holm"] < LEVEL else "is not told apart"
        away = difference(error["difference"], error["diff_ci_low"], error["diff_ci_high"])
        verdict += f"; it {told} from that of the default ({away}, {adjusted(error['p_holm'])})."
    return f"{short_name(dataset)}, {policy}:\n\n{table}\n\n- {policy}: {verdict}"
