"""A plain Optuna objective: learned interpolation inside, bad trials pruned, nothing of `hpo`.

Optuna searches the learning rate and the step size of λ; `core.metamixup_step` learns the λ of each
batch. So two held-out sets are needed, and they share no image: the meta-validation images teach λ
in every step, the scored ones rank the trials. An error on the meta-validation images would flatter
the trials that fit them best. The test images are used once, for the best trial.

    python studies/examples/optuna_pruning.py            # a minute or two on one core
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import optuna
import torch
from optuna.trial import TrialState
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split

import core


def split_digits() -> list[Any]:
    """Returns 1000 images to train on, 200 for λ, 297 to score, 300 to test; 8×8, in [0, 1]."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    digits = TensorDataset(images, torch.tensor(labels))
    return random_split(digits, [1000, 200, 297, 300], torch.Generator().manual_seed(0))


def forever(loader: Iterable[list[Tensor]]) -> Iterator[list[Tensor]]:
    """Yields the loader's batches without end, shuffled anew in each round."""
    while True:
        yield from loader


def train(lr: float, step_size: float, epochs: int) -> Iterator[nn.Module]:
    """Trains a small CNN; yields it after each epoch."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    train_set, meta_set, *_ = split_digits()
    train_loader = DataLoader(train_set, batch_size=64, shuffle=True)
    meta_batches = forever(DataLoader(meta_set, batch_size=64, shuffle=True))
    for _ in range(epochs):
        for x, y in train_loader:
            x_val, y_val = next(meta_batches)
            core.metamixup_step(model, optimizer, (x, y), (x_val, y_val), step_size=step_size)
        yield model


def error(model: nn.Module, images: Dataset[Any]) -> float:
    """Returns the percent of the images that the model gets wrong."""
    x, y = next(iter(DataLoader(images, batch_size=1000)))
    with torch.inference_mode():
        return 100 * float((model(x).argmax(dim=1) != y).float().mean())


def objective(trial: optuna.Trial, epochs: int) -> float:
    """Returns the last epoch's error on images that neither the weights nor λ learn from."""
    lr = trial.suggest_float("lr", 1e-3, 1.0, log=True)
    step_size = trial.suggest_float("step_size", 0.5, 8.0)
    *_, score_set, _ = split_digits()
    latest = 100.0
    for epoch, model in enumerate(train(lr, step_size, epochs), 1):
        latest = error(model, score_set)
        trial.report(latest, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return latest


def search(trials: int, epochs: int) -> optuna.Study:
    """Runs a study in memory; the same arguments give the same trials."""
    study = optuna.create_study(
        direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=3),
    )
    study.optimize(lambda trial: objective(trial, epochs), n_trials=trials)
    return study


def main(arguments: Sequence[str] | None = None) -> None:
    """Searches, prints every trial, and tests the best one."""
    parser = argparse.ArgumentParser(description="Optuna with pruning around core.metamixup_step")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    study = search(options.trials, options.epochs)
    print("trial      lr  step size  epochs  error (%)")
    for trial in study.trials:
        end = "  pruned" if trial.state == TrialState.PRUNED else ""
        print(
            f"{trial.number:5d}  {trial.params['lr']:.4f}  {trial.params['step_size']:9.2f}  "
            f"{trial.last_step:6d}  {trial.value:9.2f}{end}"
        )
    *_, model = train(**study.best_params, epochs=options.epochs)
    *_, test_set = split_digits()
    print(f"best: trial {study.best_trial.number}, error {study.best_value:.2f} %")
    print(f"its error on the test images: {error(model, test_set):.2f} %")


if __name__ == "__main__":
    main()
