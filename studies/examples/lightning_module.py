"""A Lightning module with learned interpolation, by manual optimization.

`core.learn_interpolation` gives the λ of the batch and changes nothing. The step itself goes
through `manual_backward` and the optimizer that `self.optimizers()` gives: then precision plugins,
hooks and strategies take part, and `trainer.global_step` counts it. Checkpoints, `max_steps` and
loggers go by that count, which leaves out the steps of a bare torch optimizer.

The meta-validation images come as a second part of each batch. They are none of the images that
`val_error` is measured on, which choose the checkpoint. The test images are used once.

    python studies/examples/lightning_module.py --precision bf16-mixed       # about 15 s
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import core.data.torchvision_compat  # isort: skip  # before Lightning, which imports torchvision
import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import CombinedLoader, disable_possible_user_warnings
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

Batch = tuple[Tensor, Tensor]


class Digits(L.LightningDataModule):
    """1000 images to train on, 200 for λ, 297 to validate, 300 to test; 8×8, in [0, 1]."""

    def setup(self, stage: str) -> None:
        pixels, labels = load_digits(return_X_y=True)
        images = torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
        self.parts = random_split(
            TensorDataset(images, torch.tensor(labels)),
            [1000, 200, 297, 300],
            torch.Generator().manual_seed(0),
        )

    def train_dataloader(self) -> CombinedLoader:
        """Returns {"train": batch, "meta": batch}, for one round of the training images."""
        train, meta, *_ = self.parts
        loaders = {
            "train": DataLoader(train, batch_size=64, shuffle=True),
            "meta": DataLoader(meta, batch_size=64, shuffle=True),
        }
        return CombinedLoader(loaders, mode="max_size_cycle")

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.parts[2], batch_size=512)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.parts[3], batch_size=512)


class MetaMixUp(L.LightningModule):
    """A small CNN with BatchNorm, trained with learned interpolation.

    Args:
        lr: of SGD, annealed by a cosine to 0.
        step_size: of λ; see `core.Reading`.
    """

    def __init__(self, lr: float = 0.1, step_size: float = 4.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(),
            nn.Linear(512, 10),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 10]."""
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> None:
        optimizer = self.optimizers()
        x, y = batch["train"]
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # "16-mixed" has one
        interpolation = core.learn_interpolation(
            self.net,
            (x, y),
            batch["meta"],
            optimizer=optimizer.optimizer,
            step_size=self.hparams.step_size,
            scale=1.0 if scaler is None else scaler.get_scale(),
        )
        logits = self(interpolation.mix_inputs(x))
        loss = core.soft_cross_entropy(logits, interpolation.mix_labels(y, logits.shape[1]))
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.lr_schedulers().step()
        change = (interpolation.lam - interpolation.lam_init).abs().mean()
        self.log_dict({"loss": loss, "lam_change": change})

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val_error", self.error(batch))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("test_error", self.error(batch))

    def error(self, batch: Batch) -> Tensor:
        """Returns the percent of the batch that the model gets wrong."""
        x, y = batch
        return 100 * (self(x).argmax(dim=1) != y).float().mean()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def main(arguments: Sequence[str] | None = None) -> L.Trainer:
    """Trains, then tests the checkpoint that the validation images chose. Returns the trainer."""
    parser = argparse.ArgumentParser(description="A Lightning module with core.learn_interpolation")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--precision", default="32-true", help="of the Trainer, such as bf16-mixed")
    parser.add_argument("--output", type=Path, default=Path("results", "lightning_module"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    disable_possible_user_warnings()  # these images need no worker processes
    warnings.filterwarnings("ignore", r".*LeafSpec", FutureWarning)  # Lightning 2.6 on torch 2.13

    L.seed_everything(0, verbose=False)
    best = ModelCheckpoint(monitor="val_error")
    trainer = L.Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=options.epochs,
        precision=options.precision,
        callbacks=[best],
        logger=CSVLogger(options.output),  # and the checkpoints: a folder for each run
        log_every_n_steps=10,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    digits = Digits()
    trainer.fit(MetaMixUp(), digits)
    print(f"optimizer steps: {trainer.global_step}")
    print(f"lowest validation error: {float(best.best_model_score or 0):.2f} %")
    (tested,) = trainer.test(datamodule=digits, ckpt_path="best", verbose=False)
    print(f"its error on the test images: {tested['test_error']:.2f} %")
    return trainer


if __name__ == "__main__":
    main()
