"""Networks and data of many origins train in Table II's rows, by the commands of the page."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from studies import table2

ROWS = ["none", "beta-1", "metamixup", "placebo"]
MODULE = """
import torch
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_digits
from torch import nn
from torch.utils.data import Dataset


def net(in_channels, num_classes, image_size):
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(4 * image_size**2, num_classes),
    )


def of_timm(in_channels, num_classes):
    import timm

    return timm.create_model("resnet10t", in_chans=in_channels, num_classes=num_classes)


def table():
    x, y = load_breast_cancer(return_X_y=True)
    return (x[:400], y[:400]), (x[400:], y[400:])


def layers(in_channels, num_classes, width=32):
    return nn.Sequential(
        nn.Linear(in_channels, width), nn.ReLU(), nn.Linear(width, num_classes)
    )


class Pictures(Dataset):
    def __init__(self, first, last):
        self.x, self.y = (part[first:last] for part in load_digits(return_X_y=True))

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        pixels = (self.x[i].reshape(8, 8) * 15).astype("uint8")
        return Image.fromarray(pixels).convert("RGB"), int(self.y[i])


def pictures():
    return Pictures(0, 300), Pictures(300, 400)
"""
OWN = {
    "resnet18": ("digits", "torchvision:resnet18"),
    "mobilenet": ("digits", "torchvision:mobilenet_v3_small?dropout=0.1"),
    "module": ("digits", "own_classifiers:net"),
    "timm": ("digits", "own_classifiers:of_timm"),
    "table": ("own_classifiers:table", "own_classifiers:layers?width=8"),
    "pictures": ("own_classifiers:pictures", "own_classifiers:net"),
}
"""Data set and network."""

LARGE = ("resnet18", "mobilenet", "timm")


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_ray: None, nothing_drawn: None
) -> Iterator[Callable[..., pd.DataFrame]]:
    """run(data set, network) makes a small Table II in this process, from the user's folder."""
    (tmp_path / "own_classifiers.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def made(dataset: str, model: str) -> pd.DataFrame:
        flags = f"--rows {','.join(ROWS)} --preset smoke --seeds 1 --epochs 1 --train-size 20"
        flags += " --meta-size 10 --batch-size 10 --meta-batch-size 10"
        assert table2.main([*flags.split(), "--dataset", dataset, "--model", model]) == 0
        return pd.read_csv(tmp_path / "results" / "table2.csv")

    yield made
    sys.modules.pop("own_classifiers", None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in OWN],
)
def test_a_classifier_of_ones_own_trains_in_every_row(
    name: str, run: Callable[..., pd.DataFrame]
) -> None:
    if name == "timm" and importlib.util.find_spec("timm") is None:
        pytest.skip("needs timm (pip install '.[dev]')")
    table = run(*OWN[name])
    assert table["method"].tolist() == ROWS
    assert table["n_seeds"].tolist() == [1] * 4
    assert np.isfinite(table["mean_error"]).all()
