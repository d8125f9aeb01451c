"""Two ways to train a Lightning module compared over seeds: the step of λ, 4 against 0.5.

Each seed is a whole training by Lightning's `Trainer`, in a process of its own under Ray. A
callback reports each epoch; what is compared is the test error. The same command goes on after a
kill.

    python studies/examples/compare/lightning_trainer.py --seeds 5
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import core.data.torchvision_compat  # noqa: F401, isort: skip  # before Lightning's torchvision
import lightning as L

import hpo
from studies.examples.lightning_module import Digits, MetaMixUp

Report = Callable[..., None]


class Reported(L.Callback):
    """Tells `hpo.compare` what is logged, after each epoch."""

    def __init__(self, report: Report):
        self.report = report

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Reports all numbers of the epoch."""
        if not trainer.sanity_checking:
            self.report(**{name: float(value) for name, value in trainer.logged_metrics.items()})


def error_of(seed: int, report: Report, *, step_size: float, epochs: int) -> float:
    """Trains with a seed; returns the test error in percent."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    L.seed_everything(seed, verbose=False)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[Reported(report)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model, data = MetaMixUp(step_size=step_size), Digits()
    trainer.fit(model, data)
    [metrics] = trainer.test(model, datamodule=data, verbose=False)
    return float(metrics["test_error"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--workers", type=int, help="trials at a time; 0 without Ray")
    parser.add_argument(
        "--output", default="results/compare-lightning", help="default: %(default)s"
    )
    given = parser.parse_args(arguments)
    functions = {
        f"step {size:g}": partial(error_of, step_size=size, epochs=given.epochs)
        for size in (4.0, 0.5)
    }
    print(hpo.compare(functions, given.seeds, output=given.output, workers=given.workers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
