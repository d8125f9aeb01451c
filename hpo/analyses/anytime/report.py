"""The report of strategies under one budget: curves as CSV and figure, where they stand as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpo.analyses.anytime.budgets import budget_markdown, budget_table
from hpo.analyses.anytime.curves import (
    FRACTIONS,
    REFERENCES,
    Line,
    Point,
    compare,
    curve_table,
    curves,
)
from hpo.analyses.anytime.figure import anytime_figure
from hpo.cells.record import CellRecord
from hpo.cells.summary import SummaryRow
from hpo.report.contrasts import interval_text
from hpo.report.markdown import difference, padded_table, probability
from hpo.report.style import save_figure
from hpo.storage.atomic import write_atomically, write_csv
from hpo.study.plan import Plan, SearchKey


@dataclass(frozen=True)
class AnytimeReport:
    """What was written, and what is to be said of it.

    Attributes:
        markdown: the tables.
        files: CSV, Markdown and figure.
        summary: one line a strategy and data set, for `StudyTracker.summarise`.
    """

    markdown: str
    files: list[Path]
    summary: list[SummaryRow]


def write_anytime_report(
    plan: Plan, records: Iterable[CellRecord], output: Path, preamble: str = ""
) -> AnytimeReport:
    """Writes ``STUDY.csv``, ``STUDY.md`` and ``STUDY.png`` into the folder `output`, and
    ``STUDY-budgets.csv`` where a policy is trained once and another row searches.

    Args:
        plan: with rows that have strategies, and a budget.
        records: what became of their trainings.
        output: created if need be.
        preamble: Markdown that says what was run, put below the heading.
    """
    budget = plan.budget or 0.0
    by_search = curves(plan, records)
    labels = {row.row.key: row.row.label for row in plan.rows}
    csv, markdown, picture = (output / f"{plan.study}.{kind}" for kind in ("csv", "md", "png"))
    write_csv(csv, curve_table(by_search).round(6))
    lines = compare(by_search, budget)
    text = anytime_markdown(lines, labels, budget)
    files = [csv, markdown, picture]
    budgets = budget_table(plan, by_search)
    if not budgets.empty:
        files.append(output / f"{plan.study}-budgets.csv")
        write_csv(files[-1], budgets.round(6))
        text += "\n\n" + budget_markdown(budgets, labels)
    parts = [f"# {plan.study}", preamble, text]
    write_atomically(markdown, "\n\n".join(part.strip() for part in parts if part) + "\n")
    save_figure(anytime_figure(by_search, labels), picture)
    settings = {row.row.key: row.row.setting for row in plan.rows}
    summary = [_summary(line, by_search, settings) for line in lines if line.at[-1].n > 0]
    return AnytimeReport(text, files, summary)


def anytime_markdown(
    lines: Sequence[Line],
    labels: Mapping[str, str],
    budget: float,
    references: Sequence[str] = REFERENCES,
) -> str:
    """Tables of where strategies stand, one for each data set, with notes.

    Args:
        lines: of `hpo.analyses.anytime.curves.compare`.
        labels: how strategies are called.
        budget: in units of a plain training.
        references: what they were compared with.
    """
    parts = []
    for dataset in dict.fromkeys(line.dataset for line in lines):
        here = [line for line in lines if line.dataset == dataset]
        there = [name for name in references if any(line.method == name for line in here)]
        header = [
            "strategy",
            *(f"at {fraction * budget:g} units" for fraction in FRACTIONS),
            "n",
            *(text for name in there for text in (f"− {labels[name]}", "p (Holm)")),
        ]
        cells = []
        for line in here:
            standing = [interval_text(at, 2) for at in line.at]
            n = str(line.at[-1].n)
            cells.append([labels[line.method], *standing, n, *_against(line, there)])
        parts += [f"## {dataset}", padded_table(header, cells)]
    return "\n\n".join([*parts, _legend(budget)])


def _against(line: Line, references: Sequence[str]) -> list[str]:
    cells = []
    for name in references:
        contrast = line.against.get(name)
        if contrast is None:
            cells += ["–", "–"]
            continue
        cells += [difference(*contrast.paired[:3]), probability(contrast.p_holm)]
    return cells


def _legend(budget: float) -> str:
    return "\n".join(
        [
            f"- Budget: {budget:g} units of a plain training for each strategy and seed. A unit is "
            "an expected cost (a learned policy that acts at every step 4.5), so that no clock "
            "decides what is trained; measured seconds and samples are in the CSV and the figure. "
            "A training that ends beyond the budget is not counted.",
            "- error (%): test error of the incumbent, which is the finished training with the "
            "lowest meta-validation error so far; of a population its best member as it stands at "
            "the end of a segment. Mean over seeds ± half the width of the 95 % Student-t "
            "interval; – while a seed has no incumbent yet. The test images select nothing.",
            "- −: mean difference of the errors at the end over the seeds that both have (below 0: "
            "fewer errors), with 95 % interval; p of the paired t test after Holm's method over "
            "all comparisons of the data set.",
        ]
    )


def _summary(
    line: Line, by_search: Mapping[SearchKey, Sequence[Point]], settings: Mapping[str, str]
) -> SummaryRow:
    ends = [
        trained[-1]
        for (method, dataset, _), trained in by_search.items()
        if (method, dataset) == (line.method, line.dataset) and trained
    ]
    last = line.at[-1]
    return SummaryRow(
        method=line.method,
        dataset=line.dataset,
        setting=settings[line.method],
        n_seeds=last.n,
        mean_error=last.mean,
        ci_low=last.low,
        ci_high=last.high,
        train_seconds=math.fsum(end.train_seconds for end in ends) / len(ends),
        samples_seen=math.fsum(end.samples_seen for end in ends) / len(ends),
    )
