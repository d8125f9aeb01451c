"""Trials of somebody else's training code: one function with one seed, run, kept and read again."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpo.storage.atomic import write_atomically

Report = Callable[..., None]
"""report(loss=0.3, epoch=4): notes numbers of a trial while it runs; each call is one step."""

Function = Callable[[int, Report], float]
"""function(seed, report) trains and returns one number, such as a test error."""

LONGEST_NAME = 200
"""Bytes of a function's name in that of its files, so that all else of it fits into 255."""

Key = tuple[str, int]
"""Name of the function, seed."""

Notify = Callable[[Key, int, Mapping[str, float]], None]
"""notify(key, step, metrics): hears what a running trial reports, at its step from 1."""


@dataclass(frozen=True)
class Trial:
    """This is what became of one function with one seed.

    Attributes:
        function, seed: which.
        value: what it returned; None where it failed.
        seconds: wall time.
        error: what it raised, in one line, or None.
        reports: what it reported, in order.
    """

    function: str
    seed: int
    value: float | None
    seconds: float
    error: str | None = None
    reports: tuple[Mapping[str, float], ...] = ()

    @property
    def key(self) -> Key:
        """Returns name and seed."""
        return self.function, self.seed


def run_trial(name: str, function: Function, seed: int, notify: Notify) -> Trial:
    """Runs the function in this process; whatever it raises becomes the trial's error."""
    reports: list[Mapping[str, float]] = []

    def report(**metrics: float) -> None:
        reports.append({metric: float(value) for metric, value in metrics.items()})
        notify((name, seed), len(reports), reports[-1])

    begun = time.monotonic()
    value: float | None = None
    error = None
    try:
        value = _number(function(seed, report))
        if not math.isfinite(value):
            value, error = None, f"returned {value}, which is no finite number"
    except Exception as raised:
        lines = str(raised).strip().splitlines()
        error = f"{type(raised).__name__}: {lines[0] if lines else ''}".rstrip(": ")
    return Trial(name, seed, value, time.monotonic() - begun, error, tuple(reports))


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"it returned {type(value).__name__}, and must return a number") from error


class TrialStore:
    """Trials that ended well lie in a folder, a file each; a failed one is run again.

    Args:
        folder: created when the first one ends.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def look(self, seeds: int) -> int:
        """Returns which look at the trials one of so many seeds is, from 1 on, in this call or
        before it; the same look again is no other.

        Raises:
            ValueError: the file that counts them is damaged.
        """
        path = self._folder / "looks.json"
        try:
            looks = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
            if seeds not in looks:
                looks.append(seeds)
                write_atomically(path, json.dumps(looks))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}); remove it, and looks are counted anew"
            ) from error
        return 1 + int(looks.index(seeds))

    def save(self, trial: Trial) -> None:
        """Writes the trial, whole or not at all."""
        if trial.error is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(trial.key), json.dumps(asdict(trial)))

    def load(self, key: Key) -> Trial | None:
        """Returns the stored trial, or None.

        Raises:
            ValueError: its file is damaged.
        """
        path = self._path(key)
        if not path.exists():
            return None
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            stored["reports"] = tuple(stored["reports"])
            trial = Trial(**stored)
            if trial.key != key:
                raise ValueError(f"it is of {trial.function!r}, seed {trial.seed}")
            return trial
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}); remove it, and the trial is run again"
            ) from error

    def _path(self, key: Key) -> Path:
        name, seed = key
        return self._folder / f"{escaped(name)}-s{seed}.json"


def escaped(name: str) -> str:
    """Returns a function's name as that of a file: letters that not every system takes as the bytes
    of their UTF-8, %c3%a4."""
    return re.sub(
        r"[^A-Za-z0-9_.-]", lambda letter: "".join(f"%{b:02x}" for b in letter[0].encode()), name
    )


Runner = Callable[[Sequence[Key]], Iterator[Trial]]
"""Runs trials and gives each as it ends."""


def in_this_process(functions: Mapping[str, Function], notify: Notify) -> Runner:
    """Returns a runner that runs trials one after another, without Ray."""

    def run(keys: Sequence[Key]) -> Iterator[Trial]:
        for name, seed in keys:
            yield run_trial(name, _staying(functions[name]), seed, notify)

    return run


def _staying(function: Function) -> Function:
    """Returns the function with its `sys.exit` as an error: here it would end us."""

    def stays(seed: int, report: Report) -> float:
        try:
            return function(seed, report)
        except SystemExit as end:
            if type(end) is not SystemExit:
                raise  # by a signal, which is meant for us; see `hpo.tracking.signals`
            raise RuntimeError(f"it called sys.exit({end.code!r})") from end

    return stays
