"""What is special about dual numbers; exactness is tested with the other engines."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from core.meta.gradient import meta_gradient


class Counted(nn.Module):
    """A network that counts its passes."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.passes = net, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        out: Tensor = self.net(x)
        return out


def arguments(model: nn.Module, data: SimpleNamespace) -> dict[str, Any]:
    return {"model": model, "lr": 0.3, **vars(data)}


def test_a_known_validation_gradient_leaves_one_pass(toy: SimpleNamespace) -> None:
    model, data = Counted(toy.make_net(norm=True, drop=True)), toy.make_data()
    earlier = meta_gradient(**arguments(model, data), engine="double_backward")
    assert earlier.validation is not None
    model.passes = 0
    first = meta_gradient(**arguments(model, data), engine="forward_reverse")
    assert model.passes == 3  # the mixed batch, the validation batch, the mixed batch in duals
    model.passes = 0
    again = meta_gradient(
        **arguments(model, data), engine="forward_reverse", validation_gradient=earlier.validation
    )
    assert model.passes == 1
    for result in (first, again):
        torch.testing.assert_close(result.hypergradient, earlier.hypergradient, rtol=1e-9, atol=0)
        torch.testing.assert_close(result.virtual_loss, earlier.virtual_loss, rtol=1e-12, atol=0)


def test_the_first_use_in_a_process_warns_of_nothing() -> None:
    script = """
import torch, core
x, y = torch.randn(4, 2), torch.tensor([0, 1, 2, 0])
lam, partner = torch.rand(4), torch.tensor([1, 2, 3, 0])
model = torch.nn.Linear(2, 3)
core.hypergradient(model, (x, y), (x, y), lam, partner, lr=0.1, engine="forward_reverse")
"""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
