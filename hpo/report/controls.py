"""Does learning pay? Every learned row against its placebo, its frozen row and the best Beta.

In place of the best Beta a row may name its counterpart, which shares all but what it adds
(`hpo.study.rows.Row.counterpart`).

Reads what the study's report reads; the test set selects nothing here either.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from core.lazy import pandas as pd
from hpo.cells.record import CellRecord
from hpo.report.contrasts import LEVEL, paired
from hpo.report.families import Couple, adjusted_p
from hpo.report.markdown import difference, number, padded_table, probability, tables_of
from hpo.report.outcome import Extra, Outcome
from hpo.report.positive_control import doubt, settings_table
from hpo.report.records import errors_by_seed
from hpo.storage.atomic import write_csv
from hpo.study.comparisons import NOTHING_DECLARED, Comparisons
from hpo.study.rows import Row

COLUMNS = (
    "dataset", "method", "control", "control_method", "n_seeds", "difference", "ci_low", "ci_high",
    "p_value", "p_holm", "seconds_ratio", "samples_ratio",
)  # fmt: skip
"""Of the CSV. Differences in percent; the ratios are the cost of the method over its control's."""

_NAN = float("nan")

_NAMES = {
    "placebo": "placebo",
    "frozen": "frozen λ",
    "best beta": "best Beta",
    "counterpart": "its counterpart",
}
"""Of the controls, for people."""


def controls_report(outcome: Outcome) -> Extra:
    """Writes `STUDY-controls.csv`; returns its table, and its numbers for the runs of learned rows.

    It is empty where the study has no learned row.
    """
    rows = [row.row for row in outcome.plan.table_rows]
    declared = outcome.plan.comparisons
    frame = compare_with_controls(outcome.records, rows, outcome.frame, declared)
    if frame.empty:
        outcome.no_file("controls.csv")
        return Extra()
    digits = dict.fromkeys(("difference", "ci_low", "ci_high"), 4)
    digits |= dict.fromkeys(("seconds_ratio", "samples_ratio"), 3)
    path = write_csv(outcome.file("controls.csv"), frame.round(digits))
    settings = settings_table(outcome.frame, outcome.records, declared)
    doubts = {
        (dataset, row.key): doubt(settings, dataset, row.architecture)
        for dataset in outcome.plan.datasets
        for row in rows
    }
    ended = {
        (line["dataset"], line["method"]): (line["n_seeds"], line["n_failed"])
        for line in outcome.frame.to_dict("records")
    }
    return Extra(controls_markdown(frame, outcome.labels, ended, doubts), [path], _metrics(frame))


def compare_with_controls(
    records: Sequence[CellRecord],
    rows: Sequence[Row],
    frame: pd.DataFrame,
    declared: Comparisons = NOTHING_DECLARED,
) -> pd.DataFrame:
    """Returns three lines for each data set and row that learns, one for each control.

    These are the rows of family "learned", and others that have a control or a counterpart. A row
    that has none of them there is left out.

    Args:
        records: what became of the cells.
        rows: of the study; `Row.control_of` says whose placebo and whose frozen row one is.
        frame: of `hpo.report.table.build_table`, for costs and the choice of the best Beta.

    Returns:
        The columns `COLUMNS`. A difference is that of the mean test error to the control's over the
        seeds that both have (negative: learning makes fewer errors), with 95 % interval and p of
        the paired t test. ``p_holm`` is adjusted for all comparisons of the data set with the best
        Beta and with counterparts; see `hpo.report.families.adjusted_p`. Of a placebo and of a
        frozen row, each a family of its own, it is p. Costs are those of
        `build_table`, so that of a searched Beta and of a frozen row holds what it needed before.
        What is missing is NaN, its ``control_method`` "".
    """
    controlled = {row.control_of for row in rows}
    compared = [
        (dataset, row.key, control, other)
        for dataset in frame["dataset"].unique()
        for row in rows
        if row.family == "learned" or row.counterpart is not None or row.key in controlled
        for controls in [dict(_controls_of(row, rows, frame[frame["dataset"] == dataset]))]
        if any(controls.values())
        for control, other in controls.items()
    ]
    adjusted = _adjusted(records, rows, frame, declared)
    lines = [_line(*line, records, adjusted, frame) for line in compared]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def controls_markdown(
    frame: pd.DataFrame,
    labels: Mapping[str, str],
    ended: Mapping[tuple[str, str], tuple[int, int]],
    doubts: Mapping[tuple[str, str], str],
) -> str:
    """Returns the table of `compare_with_controls` for people, one line for each learned row.

    Args:
        frame: of `compare_with_controls`, not empty.
        labels: of the rows, by key.
        ended: by data set and row how many trainings finished, and how many failed.
        doubts: by data set and row what is wrong with the positive control, or "".
    """
    parts = ["## Does learning pay?"]
    datasets = list(frame["dataset"].unique())
    for dataset in datasets:
        here = frame[frame["dataset"] == dataset]
        by_method = {
            method: here[here["method"] == method].to_dict("records")
            for method in here["method"].unique()
        }
        if len(datasets) > 1:
            parts.append(f"### {dataset}")
        controls = list(here["control"].unique())
        table = [_cells(labels[method], lines, controls) for method, lines in by_method.items()]
        parts.append(padded_table(_header(controls), table))
        verdicts = [
            _verdict(labels[method], lines, *ended[dataset, method], doubts[dataset, method])
            for method, lines in by_method.items()
            if any(line["control_method"] for line in lines[:2])
        ]
        parts += ["\n".join(verdicts)] if verdicts else []
    parts.append(_legend(frame["control"].unique()))
    return "\n\n".join(parts)


def _controls_of(row: Row, rows: Sequence[Row], here: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Yields the name of each control, and the key of the row that it is here, or ""."""
    key_of = {other.family: other.key for other in rows if other.control_of == row.key}
    for family in ("placebo", "frozen"):
        yield family, key_of.get(family, "")
    if row.counterpart is not None:
        yield "counterpart", row.counterpart if (here["method"] == row.counterpart).any() else ""
        return
    best = here.loc[here["best_beta"] & (here["architecture"] == row.architecture), "method"]
    yield "best beta", best.iloc[0] if len(best) else ""


def _adjusted(
    records: Sequence[CellRecord],
    rows: Sequence[Row],
    frame: pd.DataFrame,
    declared: Comparisons,
) -> dict[tuple[str, Couple], float]:
    """Returns the p of all comparisons that a table makes, by data set and rows."""
    p_values: dict[tuple[str, Couple], float] = {}
    for (dataset, _), lines in tables_of(frame).items():
        errors = {
            line["method"]: errors_by_seed(records, line["method"], dataset) for line in lines
        }
        best = next((line["method"] for line in lines if line["best_beta"]), None)
        told = adjusted_p(lines, rows, errors, declared.reference or best, declared)
        p_values |= {(dataset, couple): p for couple, p in told.items()}
    return p_values


def _line(
    dataset: str,
    method: str,
    control: str,
    other: str,
    records: Sequence[CellRecord],
    adjusted: Mapping[tuple[str, Couple], float],
    frame: pd.DataFrame,
) -> tuple[Any, ...]:
    """Returns the values of COLUMNS."""
    costs = frame[frame["dataset"] == dataset].set_index("method")
    ratios = (
        costs.loc[method, column] / costs.loc[other, column] if other else _NAN
        for column in ("train_seconds", "samples_seen")
    )
    contrast = paired(*(errors_by_seed(records, key, dataset) for key in (method, other)))
    # One comparison has one p, wherever it is told.
    p_holm = adjusted.get((dataset, frozenset((method, other))), contrast.p_value)
    return (dataset, method, control, other, contrast.n, *contrast[:4], p_holm, *ratios)


def _metrics(frame: pd.DataFrame) -> dict[tuple[str, str], dict[str, float]]:
    """Returns the numbers for the summary run of each learned row and data set."""
    metrics: dict[tuple[str, str], dict[str, float]] = {}
    for line in frame.to_dict("records"):
        name = line["control"].replace(" ", "_")
        metrics.setdefault((line["method"], line["dataset"]), {}).update(
            {
                f"minus_{name}": line["difference"],
                f"p_holm_{name}": line["p_holm"],
                f"seconds_over_{name}": line["seconds_ratio"],
            }
        )
    return metrics


def _header(controls: Sequence[str]) -> list[str]:
    compared = [part for name in controls for part in (f"− {_NAMES[name]}", "p (Holm)")]
    return ["learned", *compared, "time", "samples"]


def _cells(label: str, lines: Sequence[Mapping[str, Any]], controls: Sequence[str]) -> list[str]:
    cells = [label]
    by_control = {line["control"]: line for line in lines}
    for control in controls:
        line = by_control.get(control)
        if line is None:
            cells += [number(_NAN, "{}"), number(_NAN, "{}")]
            continue
        cells += [difference(line["difference"], line["ci_low"], line["ci_high"])]
        cells += [probability(line["p_holm"])]
    beta = lines[-1]
    return [*cells, *(number(beta[f"{name}_ratio"], "{:.2f}×") for name in ("seconds", "samples"))]


def _verdict(
    label: str, lines: Sequence[Mapping[str, Any]], finished: int, failed: int, doubt_here: str
) -> str:
    if not finished:
        return f"- {label}: no result" + (f", all {failed} trainings failed." if failed else ".")
    beaten = [
        _with_article(_NAMES[line["control"]])
        for line in lines
        if line["difference"] < 0 and line["p_holm"] < LEVEL
    ]
    missing = [_NAMES[line["control"]] for line in lines if not line["n_seeds"]]
    text = f"- {label}: fewer errors, with p (Holm) < {LEVEL}, than "
    text += " and ".join(beaten) or "none of its controls"
    if doubt_here:
        text = f"- {label}: this setting cannot answer, as its positive control {doubt_here}"
        text += f"; fewer errors than {' and '.join(beaten)}" if beaten else ""
    text += f"; not there: {', '.join(missing)}" if missing else ""
    if failed:
        trainings = "training" if failed == 1 else "trainings"
        text += f"; over {finished} of {finished + failed} seeds: {failed} {trainings} "
        text += "of the row failed"
    return f"{text}."


def _with_article(name: str) -> str:
    return name if name.startswith("its ") else f"the {name}"


def _legend(controls: Collection[str]) -> str:
    betas, rivals = [], []
    if "best beta" in controls:
        betas.append("best Beta: as in the table above.")
        rivals.append("the best Beta, its search included")
    if "counterpart" in controls:
        betas.append("its counterpart: the row without what this one adds, all else equal.")
        rivals.append("its counterpart")
    beta, rival = " ".join(betas), " or ".join(rivals)
    return "\n".join(
        [
            "- placebo: the same training, moved by the hypergradients of other samples of the "
            "batch, or mixed or weighted by what was learned for others. frozen λ: drawn from the "
            "distribution that learning had at that time of the training (of trainings that were "
            f"stored without it: ended with), nothing learned. {beta}",
            "- differences of mean test error over the seeds that both have (negative: learning "
            "makes fewer errors), with 95 % interval; p of the paired t test. A placebo and a "
            "frozen row stand each alone, and their p is not adjusted; the others are as above.",
            f"- time and samples: of one learned training, over those of {rival}. The errors are "
            "at equal epochs; above 1× the other got there for less.",
        ]
    )
