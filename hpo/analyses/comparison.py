"""Functions compared over seeds, with the difference that these seeds could have shown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import combinations
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from core.lazy import pandas as pd
from hpo.cells.trials import (
    LONGEST_NAME,
    Function,
    Key,
    Runner,
    Trial,
    TrialStore,
    escaped,
    in_this_process,
)
from hpo.report.contrasts import LEVEL, Values, detectable, paired
from hpo.report.markdown import difference, number, padded_table, probability
from hpo.report.statistics import holm, mean_interval
from hpo.storage.atomic import write_atomically, write_csv
from hpo.storage.output_folder import locked, study_id
from hpo.storage.places import output_at
from hpo.study.progress import QuietLine
from hpo.tracking.trials import TrackedComparison
from hpo.tracking.uris import require_address

GROWTH = 1.5
"""Seeds of the next look, as a multiple of those of the last."""
ENOUGH = 10
"""Seeds from which on differences that are all alike are believed."""


@dataclass(frozen=True)
class Comparison:
    """This is what a comparison found.

    Attributes:
        values: a line a trial: function, seed, value, seconds, error.
        table: a line a pair: first, second, n (seeds that both have), difference (mean of first −
            second), ci_low and ci_high (95 %, with `until` for all looks together), p_value (paired
            t test, for all looks together), p_holm (for all pairs), detectable (the true
            difference that so many seeds show at p < 0.05 with 80 % power, the spread given).
        looks: how often the interval was looked at.
        files: what was written.
        until: as it was given; None: there was one look, and no other could have followed.
    """

    values: pd.DataFrame
    table: pd.DataFrame
    looks: int
    files: tuple[Path, ...]
    until: float | None = None

    def __str__(self) -> str:
        """Returns the report as Markdown."""
        return _markdown(self.values, self.table, self.looks, self.until)


def compare(
    functions: Mapping[str, Function],
    seeds: int = 10,
    *,
    output: str | Path = "results/compare",
    until: float | None = None,
    most_seeds: int = 100,
    workers: int | None = None,
    threads: int = 1,
    gpus: float = 0.0,
    tracking_uri: str | None = None,
    name: str = "compare",
) -> Comparison:
    """Runs training code that is not ours over seeds, and says by how much it differs.

    Each trial is a function with a seed, under Ray, in a process of its own. Trials that ended are
    kept in ``output``: the same call goes on where it was, with more seeds or functions too. What a
    function does is the caller's business; after a change give another ``output``. A trial that
    raises, or returns no finite number, is named and run again by the next call.

    With ``until`` seeds are added, half as many again at a time, until the widest interval of a
    difference is mean ± until or narrower (one without width, as all differences are alike, counts
    from ten seeds on). Looking repeatedly would find differences that are not
    there; so look k is at the level 0.05·6/(π²k²), and all looks together are at 0.05, those of
    later calls with other seeds too.

    Args:
        functions: by name; each ``function(seed, report) -> float``. They are pickled by value.
            ``report(loss=0.3)`` notes numbers by step: a line on standard error shows the latest,
            and MLflow all of them when the trial has ended.
        seeds: 0 to seeds − 1; with ``until`` those of the first look. At least 2.
        output: folder of trials, ``compare.csv``, ``compare-values.csv`` and ``compare.md``.
        until: half the width of the interval, in units of the value; None looks once.
        most_seeds: seeds at most, however wide the interval.
        workers: trials at a time; None for as many as fit. 0 runs them here, without Ray.
        threads, gpus: of a trial.
        tracking_uri: of MLflow; None: ``MLFLOW_TRACKING_URI``, or ``output/mlflow.db``.
        name: of the MLflow experiment.

    Returns:
        `Comparison`; ``print`` shows its report.

    Raises:
        ValueError: fewer than two functions or seeds, a number out of range, a damaged trial.
        RuntimeError: a function failed with every seed.
        StudyError, TrackingError, OSError: Ray, MLflow or the folder cannot be used.

    Examples:
        >>> import hpo, random, tempfile
        >>> def a(seed, report):
        ...     return random.Random(seed).gauss(10, 1)
        >>> def b(seed, report):
        ...     return a(seed, report) + random.Random(-seed).gauss(2, 0.1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = hpo.compare({"a": a, "b": b}, seeds=5, output=folder, workers=0)
        >>> round(float(found.table["difference"][0]))
        -2
    """
    _check(functions, seeds, until, most_seeds, workers, threads, gpus)
    folder = output_at(output)
    require_address(tracking_uri)
    store = TrialStore(folder / "trials")
    trials: dict[Key, Trial] = {}
    with (
        locked(folder),
        ExitStack() as stack,
        TrackedComparison(tracking_uri, folder, name, study_id(folder, name)) as tracked,
        closing(QuietLine()) as line,
    ):

        def notify(key: Key, step: int, metrics: Mapping[str, float]) -> None:
            if line.due():
                numbers = ", ".join(f"{metric} {value:.4g}" for metric, value in metrics.items())
                said = (
                    f"{name} {len(trials)} ended · {key[0]}, seed {key[1]}, step {step}: {numbers}"
                )
                line.show(said[: line.columns])

        runner: Runner | None = in_this_process(functions, notify) if workers == 0 else None
        n = seeds
        while True:
            keys = [(function, seed) for seed in range(n) for function in functions]
            for key in keys:
                if key not in trials and (stored := store.load(key)) is not None:
                    trials[key] = stored
                    tracked.trial(stored)
            missing = [key for key in keys if key not in trials]
            if missing and runner is None:
                from hpo.cluster.trials import under_ray

                runner = stack.enter_context(under_ray(functions, workers, threads, gpus, notify))
            for trial in runner(missing) if runner is not None else ():
                store.save(trial)
                trials[trial.key] = trial
                tracked.trial(trial)
                end = f"failed ({trial.error})" if trial.error else f"{trial.value:g}"
                count = f"{len(trials)}/{len(keys)}"
                line.say(f"{name} {count} · {trial.function}, seed {trial.seed}: {end}")
            trials = {key: trials[key] for key in keys}  # in this order, however they ended
            _check_some_ended(functions, trials)
            look = 1 if until is None else store.look(n)
            table = compared(values_by_function(trials), None if until is None else look)
            enough = until is None or all(_is_narrow(pair, until) for pair in table.itertuples())
            if enough or n >= most_seeds:
                break
            n = min(most_seeds, math.ceil(GROWTH * n))
        result = _written(folder, list(trials.values()), table, look, until)
        pairs = zip(table["first"], table["second"], table["difference"], strict=True)
        metrics = {f"{_plain(one)} minus {_plain(other)}": float(by) for one, other, by in pairs}
        tracked.result(metrics, result.files)
    return result


def _is_narrow(pair: Any, until: float) -> bool:
    """Says whether a line of the table has an interval of mean ± until, or narrower.

    Few seeds may differ by the same amount by chance, of values that come in steps: an interval
    without width counts from `ENOUGH` seeds on.
    """
    half = (pair.ci_high - pair.ci_low) / 2
    return bool(0 < half <= until or (pair.n >= ENOUGH and not half > 0))


def values_by_function(trials: Mapping[Key, Trial]) -> dict[str, dict[int, float]]:
    """Returns the values of each function by seed; failed trials have none."""
    values: dict[str, dict[int, float]] = {}
    for (function, seed), trial in trials.items():
        ended = values.setdefault(function, {})
        if trial.value is not None:
            ended[seed] = trial.value
    return values


def compared(values: Mapping[str, Values], look: int | None = None) -> pd.DataFrame:
    """Returns the differences of all pairs, as `Comparison.table` describes them.

    Args:
        values: of each function by seed.
        look: number of this look, from 1, where it may not be the only one.
    """
    level = LEVEL if look is None else LEVEL * 6 / (math.pi**2 * look**2)
    lines = []
    for first, second in combinations(values, 2):
        one, other = values[first], values[second]
        pair = paired(one, other, confidence=1 - level)
        p_value = pair.p_value * LEVEL / level
        p_value = 1.0 if p_value > 1 else p_value  # NaN stays what it is
        numbers = (pair.n, *pair[:3], p_value, detectable(one, other, level=level))
        lines.append((first, second, *numbers))
    columns = ("first", "second", "n", "difference", "ci_low", "ci_high", "p_value", "detectable")
    table = pd.DataFrame(lines, columns=columns)
    table.insert(7, "p_holm", holm(table["p_value"].tolist()))
    return table


def _check(
    functions: Mapping[str, Function],
    seeds: int,
    until: float | None,
    most_seeds: int,
    workers: int | None,
    threads: int,
    gpus: float,
) -> None:
    if not isinstance(functions, Mapping):
        raise ValueError(f"functions must be a dictionary of names, got {type(functions).__name__}")
    counts = {"seeds": seeds, "most_seeds": most_seeds, "threads": threads, "workers": workers}
    for name, count in counts.items():
        if not isinstance(count, Integral) and not (name == "workers" and count is None):
            raise ValueError(f"{name} must be a whole number, got {count!r}")
    for name, value in {"until": until, "gpus": gpus}.items():
        if not isinstance(value, Real) and not (name == "until" and value is None):
            raise ValueError(f"{name} must be a number, got {value!r}")
    if not 0 <= gpus < math.inf:
        raise ValueError(f"gpus must be at least 0 and finite, got {gpus}")
    if len(functions) < 2:
        raise ValueError(f"a comparison needs two functions or more, got {len(functions)}")
    for name, function in functions.items():
        if not isinstance(name, str) or not name.strip() or not callable(function):
            raise ValueError(f"functions must be callable and have names, got {name!r}: {function}")
        if len(escaped(name)) > LONGEST_NAME:
            raise ValueError(
                f"the name {name[:20]!r}… is {len(escaped(name))} bytes long as a file's; give one "
                f"of {LONGEST_NAME} at most"
            )
    if seeds < 2:
        raise ValueError(f"seeds must be at least 2, or there is no spread to see; got {seeds}")
    if until is not None and not 0 < until < math.inf:
        raise ValueError(f"until must be positive and finite, got {until}")
    if until is not None and most_seeds < seeds:
        raise ValueError(f"most_seeds must be at least seeds={seeds}, got {most_seeds}")
    if workers is not None and workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")


def _check_some_ended(functions: Mapping[str, Function], trials: Mapping[Key, Trial]) -> None:
    ended = values_by_function(trials)
    for name in functions:
        if not ended[name]:
            error = next(t.error for t in trials.values() if t.function == name)
            raise RuntimeError(f"function {name!r} failed with every seed; the first time: {error}")


def _written(
    folder: Path, trials: list[Trial], table: pd.DataFrame, looks: int, until: float | None
) -> Comparison:
    columns = ["function", "seed", "value", "seconds", "error"]
    values = pd.DataFrame([{c: getattr(t, c) for c in columns} for t in trials], columns=columns)
    files = tuple(folder / f"compare{end}" for end in (".csv", "-values.csv", ".md"))
    for path, frame in zip(files, (table, values), strict=False):
        write_csv(path, frame)
    result = Comparison(values, table, looks, files, until)
    write_atomically(files[2], str(result))
    return result


def _markdown(values: pd.DataFrame, table: pd.DataFrame, looks: int, until: float | None) -> str:
    means = []
    for function, here in values.groupby("function", sort=False):
        interval = mean_interval(here["value"].dropna().tolist())
        half = number(interval.high - interval.mean, "{:.4g}")
        failed = int(here["error"].notna().sum())
        seconds = number(here["seconds"].mean(), "{:.1f}")
        mean = f"{interval.mean:.4g} ± {half}"
        means.append([str(function), mean, str(interval.n), str(failed), seconds])
    pairs = [
        [
            f"{line.first} − {line.second}",
            difference(line.difference, line.ci_low, line.ci_high),
            str(line.n),
            probability(line.p_value),
            probability(line.p_holm),
            number(line.detectable, "{:.2g}"),
        ]
        for line in table.itertuples()
    ]
    level = "" if until is None else f" Intervals and p hold for all looks together, here {looks}."
    return "\n\n".join(
        [
            padded_table(("function", "value", "n", "failed", "seconds"), means),
            padded_table(("pair", "difference", "n", "p", "p (Holm)", "detectable"), pairs),
            "value: mean over seeds ± half the width of its 95 % Student-t interval. difference: "
            "paired over the seeds that both have, with 95 % interval; p of the t test, adjusted "
            "by Holm's method for all pairs. detectable: the true difference that so many seeds "
            f"show with 80 % power, the spread given.{level}\n",
        ]
    )


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in " _-." else "_" for letter in name)
