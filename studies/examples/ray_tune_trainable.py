"""Your own Ray Tune trainable: learned interpolation, checkpoints, a killed worker goes on.

Tune tries a grid of the distribution that λ starts from, Beta(init_alpha, init_alpha). The
trainable reports after each epoch with a checkpoint of all that the next epoch depends on: weights,
optimizer, random stream. A worker that dies is started again, takes up its last checkpoint and ends
with the numbers of an undisturbed one. The scored images choose the trial, so they are none of the
meta-validation images; the test images are used once, on the checkpoint of the best trial.

    python studies/examples/ray_tune_trainable.py     # about half a minute
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from sklearn.datasets import load_digits
from torch import Tensor, nn

import core

Part = tuple[Tensor, Tensor]


def split_digits() -> list[Part]:
    """Returns 1000 images to train on, 200 for λ, 297 to score, 300 to test; 8×8, in [0, 1]."""
    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return [(x[rows], torch.tensor(labels)[rows]) for rows in order.split([1000, 200, 297, 300])]


def make_model() -> nn.Module:
    """Returns a small CNN for 8×8 images."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def error(model: nn.Module, part: Part) -> float:
    """Returns the percent of the images that the model gets wrong."""
    with torch.inference_mode():
        return 100 * float((model(part[0]).argmax(dim=1) != part[1]).float().mean())


def train(config: dict[str, Any]) -> None:
    """Trains with `init_alpha` for `epochs`, and reports `error`, `epoch` and `steps`."""
    torch.set_num_threads(1)
    (x, y), (x_meta, y_meta), score_part, _ = split_digits()
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    reading = core.Reading(init_alpha=config["init_alpha"])
    epoch = steps = 0

    checkpoint = tune.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder, "state.pt"), weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        epoch, steps = state["epoch"], state["steps"]

    while epoch < config["epochs"]:
        for rows in torch.randperm(len(x), generator=generator).split(64):
            meta = torch.randint(len(x_meta), (64,), generator=generator)
            core.metamixup_step(
                model, optimizer, (x[rows], y[rows]), (x_meta[meta], y_meta[meta]),
                reading=reading, generator=generator,
            )  # fmt: skip
            steps += 1
        epoch += 1
        state = {
            "model": model.state_dict(), "optimizer": optimizer.state_dict(),
            "generator": generator.get_state(), "epoch": epoch, "steps": steps,
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            torch.save(state, Path(folder, "state.pt"))
            metrics = {"error": error(model, score_part), "epoch": epoch, "steps": steps}
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def run(trainable: Any, *, alphas: Sequence[float], epochs: int, output: Path) -> tune.ResultGrid:
    """Trains once for each alpha on the Ray that runs; results and checkpoints go to `output`."""
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={"init_alpha": tune.grid_search(list(alphas)), "epochs": epochs},
        tune_config=tune.TuneConfig(metric="error", mode="min"),
        run_config=tune.RunConfig(
            name="init_alpha",
            storage_path=str(output.resolve()),
            failure_config=tune.FailureConfig(max_failures=2),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            verbose=0,
        ),
    )
    return tuner.fit()


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the grid, prints it as a table, and tests the best trial's checkpoint."""
    parser = argparse.ArgumentParser(description="A Ray Tune trainable with core.metamixup_step")
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.2, 0.5, 1.0, 2.0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("results", "ray_tune_trainable"))
    options = parser.parse_args(arguments)

    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one has a banner at verbose=0 too
    with ray.init(
        num_cpus=options.workers,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    ):
        results = run(train, alphas=options.alphas, epochs=options.epochs, output=options.output)

    table = results.get_dataframe().sort_values("config/init_alpha")
    print(table[["config/init_alpha", "error", "epoch", "steps"]].to_string(index=False))
    best = results.get_best_result()
    with best.checkpoint.as_directory() as folder:
        model = make_model()
        model.load_state_dict(torch.load(Path(folder, "state.pt"), weights_only=True)["model"])
    print(f"best: init_alpha {best.config['init_alpha']:g}, error {best.metrics['error']:.2f} %")
    print(f"its error on the test images: {error(model, split_digits()[-1]):.2f} %")


if __name__ == "__main__":
    main()
