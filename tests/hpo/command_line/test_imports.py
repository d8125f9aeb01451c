"""What is imported before the flags of a study are read."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.scripts import ROOT

LATER = {"ray", "mlflow", "optuna", "pandas", "scipy", "sklearn", "matplotlib", "torchvision"}


@pytest.mark.parametrize(
    ("study", "needed"), [("table2", set()), ("contrast", set()), ("figure4", {"pandas"})]
)
def test_flags_are_read_before_what_only_trainings_and_reports_need(
    study: str, needed: set[str]
) -> None:
    script = f"""
import runpy, sys
sys.argv = ["studies/{study}.py", "--epoch", "many"]
try:
    runpy.run_path({str(ROOT / "studies" / f"{study}.py")!r}, run_name="__main__")
except SystemExit as ended:
    print(ended.code, *sorted({{name.partition(".")[0] for name in sys.modules}}))
"""
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    code, *loaded = run.stdout.split()
    assert code == "2"
    assert run.stderr.startswith(f"studies/{study}.py: error: argument --epochs: ")
    assert set(loaded) & LATER <= needed
