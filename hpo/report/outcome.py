"""This module has what a study ended with, and what its own parts of the report are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from core.lazy import pandas as pd
from hpo.cells.record import CellRecord
from hpo.report.records import Results, results_by_seed
from hpo.study.plan import Plan, SourceKey, source_key
from hpo.study.rows import StudyRow

if TYPE_CHECKING:
    from core.data import Source
    from core.training.config import TrainingConfig


@dataclass(frozen=True)
class Outcome:
    """This is what a study trained and what came of it.

    Attributes:
        plan: what it was to train.
        records: what became of the cells, sorted by id; crashed ones among them.
        sources: the loaded data; `source_of` finds those of a training.
        frame: of `hpo.report.table.build_table`.
        output: its output folder, where files of its own go.

    Examples:
        >>> import hpo
        >>> def most_certain(outcome: hpo.Outcome) -> hpo.Extra:
        ...     widths = outcome.frame["ci_high"] - outcome.frame["ci_low"]
        ...     return hpo.Extra(f"Most certain: {outcome.frame['label'][widths.idxmin()]}.")

        ``run_study(..., extras=[most_certain])`` prints it below the table. Tried on a table alone:

        >>> import pandas, types
        >>> frame = pandas.DataFrame({"label": ["a", "b"], "ci_low": [1, 2], "ci_high": [3, 3]})
        >>> most_certain(types.SimpleNamespace(frame=frame)).markdown
        'Most certain: b.'
    """

    plan: Plan
    records: Sequence[CellRecord]
    sources: Mapping[SourceKey, Source]
    frame: pd.DataFrame
    output: Path

    def source_of(self, training: TrainingConfig) -> Source:
        """Returns the loaded data that a training reads."""
        return self.sources[source_key(training)]

    def results(self, dataset: str, row: StudyRow) -> Results:
        """Returns what the finished final trainings of a row on a data set gave."""
        return results_by_seed(self.records, dataset, row.row.key)

    def file(self, name: str) -> Path:
        """Returns the path of a file of the study's own, STUDY-NAME."""
        return self.output / f"{self.plan.study}-{name}"

    def no_file(self, name: str) -> None:
        """Removes what an earlier run with other rows left there."""
        self.file(name).unlink(missing_ok=True)

    @property
    def labels(self) -> dict[str, str]:
        """Returns what the rows are called, by key."""
        return {row.row.key: row.row.label for row in self.plan.rows}


@dataclass(frozen=True)
class Extra:
    """This is one more part of a study's report.

    Attributes:
        markdown: printed after the table and appended to the report; may be empty.
        files: what it wrote; listed, and stored in MLflow as artifacts.
        metrics: numbers for the summary run of a (method, data set); NaN is left out.

    Examples:
        >>> import hpo
        >>> part = hpo.Extra("Two of ten.", metrics={("beta-1", "digits"): {"stuck": 2.0}})
        >>> part.files
        []
    """

    markdown: str = ""
    files: list[Path] = field(default_factory=list)
    metrics: Mapping[tuple[str, str], Mapping[str, float]] = field(default_factory=dict)


ExtraReport = Callable[[Outcome], Extra]
"""Makes one more part of the report. It reads and writes files, and trains nothing."""
