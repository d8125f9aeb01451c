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


def test_nothing_is_declared_where_the_operators_are_there() -> None:
    out = run(
        "import torch\n"
        "own = torch.library.Library('torchvision', 'DEF')\n"
        "for name in ('nms', 'qnms'):\n"
        "    own.define(name + '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')\n"
        "from core.data import torchvision_compat\n"
        "print(torchvision_compat._declarations)"
    )
    assert out.strip() == "None"


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
