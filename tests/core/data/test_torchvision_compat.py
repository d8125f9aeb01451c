"""Each case in a process of its own: operators are declared once in a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PREFIX = """
import torch
library = torch.library.Library("torchvision", "DEF")
{declared}
if not hasattr(torch.ops.torchvision, "nms"):
    raise RuntimeError("{error}")
version = "made up"
"""
DECLARED = """
for name in ("nms", "qnms"):
    library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def run(code: str, path: Path | None = None) -> str:
    before = os.environ.get("PYTHONPATH", "")
    environment = {**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{before}" if path else before}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def made_up(path: Path, declared: str, error: str) -> Path:
    """Returns a torchvision that declares its operators, or fails as the real one does without
    them."""
    (path / "torchvision.py").write_text(PREFIX.format(declared=declared, error=error))
    return path


def test_nothing_is_declared_where_torchvision_imports_by_itself(tmp_path: Path) -> None:
    """Whatever its library is called: to declare an operator twice ends the interpreter."""
    out = run(
        "from core.data import torchvision_compat as compat\n"
        "print(compat.torchvision.version, compat._declarations)",
        made_up(tmp_path, DECLARED, "not reached"),
    )
    assert out.strip() == "made up None"


def test_another_error_of_its_import_is_not_hidden(tmp_path: Path) -> None:
    place = made_up(tmp_path, "", "a driver is missing")
    with pytest.raises(AssertionError, match="a driver is missing"):
        run("import core.data.torchvision_compat", place)


def test_torchvision_comes_when_it_is_asked_for_and_not_before() -> None:
    """Nor does the data package wait for scikit-learn; a plain import works afterwards."""
    out = run(
        "import sys, core.data\n"
        "print(*{'torchvision', 'sklearn', 'scipy'} & set(sys.modules))\n"
        "from core.data.torchvision_compat import torchvision\n"
        "print(torchvision.datasets.CIFAR10.__name__, torchvision.models.resnet18.__name__)\n"
        "import torchvision.transforms"
    )
    assert out.split("\n")[:2] == ["", "CIFAR10 resnet18"]
