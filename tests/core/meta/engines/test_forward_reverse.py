"""What is special about dual numbers; exactness is tested with the other engines."""

from __future__ import annotations

import subprocess
import sys


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
