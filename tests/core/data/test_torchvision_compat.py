"""Each case in a process of its own: operators are declared once in a process."""

from __future__ import annotations

import subprocess
import sys


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_data_sets_and_models_import() -> None:
    out = run(
        "from core.data.torchvision_compat import torchvision\n"
        "print(torchvision.datasets.CIFAR10.__name__, torchvision.models.resnet18.__name__)"
    )
    assert out.split() == ["CIFAR10", "resnet18"]


def test_nothing_is_declared_where_the_operators_are_there() -> None:
    out = run(
        "import torch\n"
        "own = torch.library.Library('torchvision', 'DEF')\n"
        "for name in ('nms', 'qnms'):\n"
        "    own.define(name + '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')\n"
        "from core import torchvision_compat\n"
        "print(torchvision_compat._declarations)"
    )
    assert out.strip() == "None"


def test_plain_import_works_after_it() -> None:
    run("import core.data.torchvision_compat\nimport torchvision.transforms")


def test_the_data_package_does_not_wait_for_torchvision_or_scikit_learn() -> None:
    out = run(
        "import sys, core.data\nprint(*{'torchvision', 'sklearn', 'scipy'} & set(sys.modules))"
    )
    assert out.strip() == ""
