"""The names of `hpo` itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hpo
from hpo.study.rows import StudyRow


def test_every_name_is_there_and_no_other() -> None:
    assert set(hpo.__all__) <= {*dir(hpo)}
    for name in hpo.__all__:
        assert getattr(hpo, name).__module__.startswith("hpo.") or name == "SEARCHED_ALPHA"
    assert hpo.StudyRow is StudyRow
    with pytest.raises(AttributeError, match="module 'hpo' has no attribute 'study_row'"):
        hpo.study_row  # noqa: B018


def test_to_import_it_is_cheap() -> None:
    script = "import hpo, sys; print(*{'torch', 'ray', 'mlflow', 'optuna'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
