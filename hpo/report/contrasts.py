"""What the paper's figures share: the results of a row, intervals over seeds, files, styles.

Each figure is a function of an `Outcome` that gives an `Extra`: it reads what the study's cells
have stored and writes STUDY.png, its data as STUDY.csv, and what is to be said of it as STUDY.md.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd

from hpo.report.markdown import adjusted
from hpo.report.outcome import Extra, Outcome
from hpo.report.records import Results, results_by_seed
from hpo.report.statistics import (
    MeanInterval,
    PairedComparison,
    holm,
    mean_interval,
    paired_comparison,
)
from hpo.report.style import save_figure
from hpo.storage.atomic import write_atomically
from hpo.study.rows import StudyRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Values = Mapping[int, float]
"""By seed."""

Key = TypeVar("Key", bound=Hashable)

LEVEL = 0.05
"""A difference whose adjusted p is below it is told apart from none."""

HOLM = (
    "- differences are paired over seeds, with 95 % interval; p of the t test, adjusted by Holm's "
    "method for all the differences told here of one data set."
)
"""What a text says of its differences."""


@dataclass(frozen=True)
class Contrast:
    """A difference of two rows, and its p adjusted for the comparisons it was made with."""

    paired: PairedComparison
    p_holm: float

    @property
    def direction(self) -> int:
        """1 for a difference above 0, −1 for one below, 0 where it is not told apart from 0."""
        return int(np.sign(self.paired.difference)) if self.p_holm < LEVEL else 0

    def told(self, digits: int = 3) -> str:
        """For people: the difference with interval, p and n."""
        found = self.paired
        if found.n == 0:
            return "no seed in common"
        text = f"{found.difference:+.{digits}f}"
        if found.n > 1:
            text += f" [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
        return f"{text.replace('-', '−')}, {adjusted(self.p_holm)}, n = {found.n}"


def results_of(outcome: Outcome, dataset: str, row: StudyRow) -> Results:
    """Returns what the finished final trainings of a row on a data set gave."""
    return results_by_seed(outcome.records, dataset, row.row.key)


def intervals(series: Iterable[Sequence[float]]) -> list[MeanInterval]:
    """Mean and 95 % interval over seeds of each of several equally long series, one a seed."""
    columns = zip(*series, strict=True)
    return [mean_interval(values) for values in columns]


def table_line(interval: MeanInterval) -> dict[str, float]:
    """An interval as columns of a CSV."""
    return {
        "n_seeds": interval.n,
        "mean": interval.mean,
        "ci_low": interval.low,
        "ci_high": interval.high,
    }


def told(interval: MeanInterval, digits: int = 3) -> str:
    """An interval for people."""
    if interval.n == 0:
        return "–"
    half = interval.high - interval.mean
    return f"{interval.mean:.{digits}f}" + ("" if half != half else f" ± {half:.{digits}f}")


def paired(first: Values, second: Values) -> PairedComparison:
    """Returns first − second over the seeds that both have."""
    shared = sorted(first.keys() & second.keys())
    return paired_comparison([first[s] for s in shared], [second[s] for s in shared])


def contrasts(pairs: Mapping[Key, tuple[Values, Values]]) -> dict[Key, Contrast]:
    """Returns each first − second over the seeds that both have; one family of comparisons."""
    comparisons = {key: paired(*values) for key, values in pairs.items()}
    p_holm = holm([comparison.p_value for comparison in comparisons.values()])
    return {
        key: Contrast(comparison, p)
        for (key, comparison), p in zip(comparisons.items(), p_holm, strict=True)
    }


def verdict(directions: Sequence[int]) -> str:
    """What these comparisons say of a claim; each 1 (as it says), −1 (the other way round) or 0
    (not told apart)."""
    if min(directions) < 0:
        if max(directions) > 0:
            return "holds for one and not the other"
        return "is contradicted" if max(directions) < 0 else "is contradicted by one"
    if min(directions) > 0:
        return "holds"
    return "holds for one" if max(directions) > 0 else "is not supported"


def seeds_of(frame: pd.DataFrame, what: str) -> str:
    """What a picture says of its seeds: of how many the means are, and what its intervals are.

    Args:
        frame: the figure's data, with a column n_seeds.
        what: that shows the intervals, such as "bands".
    """
    counts = [int(n) for n in sorted(frame["n_seeds"].unique()) if n > 0]
    if not counts:
        return "no seed has ended"
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    if counts == [1]:
        return "one seed, no interval"
    return f"means over {n} seeds, {what}: 95 % intervals"


def written(outcome: Outcome, frame: pd.DataFrame, figure: Figure, markdown: str) -> Extra:
    """Write a study's figure, its data (six digits) and its text.

    Args:
        outcome: of the study; its name is that of the files.
        frame: the data, everything that the figure shows.
        figure: to be saved as PNG.
        markdown: what is to be said of it; also printed, and part of the study's report.
    """
    stem = outcome.output / outcome.plan.study
    csv, picture, text = (stem.with_name(f"{stem.name}.{kind}") for kind in ("csv", "png", "md"))
    csv.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(csv, frame.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
    save_figure(figure, picture)
    write_atomically(
        text, f"# {stem.name}\n\n![{stem.name}]({picture.name})\n\n{markdown.strip()}\n"
    )
    return Extra(markdown, [csv, picture, text])
