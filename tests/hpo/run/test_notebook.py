"""A study in a notebook, which has set what torch does before."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hpo

X = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


def net(in_channels: int, num_classes: int) -> nn.Module:
    return nn.Linear(in_channels, num_classes)


def histories(output: Path) -> list[Any]:
    """Returns what each epoch reported, but for its seconds."""
    found = hpo.contrast(
        model=net, train=(X, Y), test=(X, Y), policies=["none", "metamixup"], seeds=1, epochs=2,
        workers=0, batch_size=8, output=output, tracking_uri=f"sqlite:///{output}.db",
    )  # fmt: skip
    return [
        {name: value for name, value in epoch.items() if "second" not in name}
        for record in found.records
        for epoch in record.trained.history
    ]


@pytest.mark.parametrize("what", ["no_grad", "float64", "device"])
def test_settings_of_a_notebook_change_nothing(
    what: str, tmp_path: Path, nothing_drawn: None
) -> None:
    """Trainings here are those of a process of its own, and the settings hold again afterwards."""
    truth = histories(tmp_path / "before")
    before = torch.get_default_dtype()
    dtype = torch.float64 if what == "float64" else before
    device = torch.device("meta") if what == "device" else nullcontext()
    try:
        torch.set_default_dtype(dtype)
        with torch.set_grad_enabled(what != "no_grad"), device:
            found = histories(tmp_path / "after")
            assert torch.get_default_dtype() == dtype
            assert torch.is_grad_enabled() == (what != "no_grad")
    finally:
        torch.set_default_dtype(before)
    assert len(truth) == 4
    assert found == truth
