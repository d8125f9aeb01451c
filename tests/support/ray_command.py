"""Ray's command line in a home of the test's own, and what a study that it ran has left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from hpo.cells.record import CellRecord
from hpo.cells.store import CellStore
from tests.support.scripts import ROOT

RAYS_OWN_WARNINGS = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::UserWarning:ray.*",
)
"""From its dependencies and its shutdown."""


def ray(
    home: Path, *arguments: str, cwd: Path = ROOT, refused: bool = False, **changed: str
) -> str:
    """Runs Ray as someone who lives in `home`, where `home/bin` is the first place of commands.

    Args:
        home: the folder; all that runs has it in its environment as RAY_TMPDIR.
        arguments: of Ray.
        cwd: the working directory.
        refused: whether Ray must fail; else it must not.
        changed: variables of the environment.

    Returns:
        What it printed.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {
        "HOME": str(home),
        "PATH": f"{home}/bin:{Path(sys.executable).parent}:{environment['PATH']}",
        "RAY_TMPDIR": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
        # By default workers yield to everything else: on a busy machine they never get on.
        "RAY_worker_niceness": "0",
    }
    run = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", *arguments],
        cwd=cwd,
        env={**environment, **changed},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert (run.returncode != 0) is refused, run.stdout
    return run.stdout


def trained(output: Path, *keys: str) -> list[CellRecord]:
    """Returns the records of a table 2 that has exactly these rows, all with an error."""
    table = pd.read_csv(output / "table2.csv")
    assert list(table["method"]) == [*keys]
    assert table["mean_error"].notna().all()
    return CellStore(output).records()
