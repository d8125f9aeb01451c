"""Studies on a disk of 30 MB that fills up; test_faults.py runs this in a mount namespace.

python full_disk.py DISK CALM STORE
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import hpo.run.work
from tests.system.faults.bench import Bench, patched

disk, calm, store = map(Path, sys.argv[1:])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=30m", "none", disk], check=True)
ballast = disk / "ballast"


def fill() -> None:
    """Takes all that is left of the disk."""
    with open(ballast, "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(65536))


def before_the_report(patch: pytest.MonkeyPatch) -> None:
    report = hpo.run.work._report

    def full(*args: Any) -> Any:
        fill()
        return report(*args)

    patch.setattr(hpo.run.work, "_report", full)


def study(name: str, finished: int, fault: Callable[[int], None] | None = None) -> None:
    """One on which the disk fills up, again while it is full, and when there is room."""
    output = disk / name
    output.mkdir()
    shutil.copy(store, output / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        bench = patched(patch)
        with pytest.MonkeyPatch.context() as inner:
            if fault is None:
                before_the_report(inner)
            assert bench.study(output, fault=fault) != 0
        assert ballast.exists()
        stored = list(output.glob("cells/*/result.json"))
        assert len(stored) == finished, stored
        bench.study(output)
        ballast.unlink()
        assert bench.study(output) == 0
        bench.assert_as_calm(output, calm)
    print(f"{name}: as calm", flush=True)


at = Bench.at
study("checkpoint and store", 0, at(1, fill))
study("result", 3, at(12, fill))
study("report", 4)
