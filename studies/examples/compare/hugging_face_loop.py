"""A loop as Hugging Face's examples write it, in plain torch: does MixUp of its inputs pay?

The model takes `inputs` and `labels` and returns an object with `loss` and `logits`, the batches
are dictionaries, the rate warms up and falls linearly, gradients are clipped. The one difference
between the two functions that are compared is what the model is given.

    python studies/examples/compare/hugging_face_loop.py --seeds 5
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

import hpo

Report = Callable[..., None]


@dataclass
class Output:
    """What the model returns."""

    loss: Tensor
    logits: Tensor


class Classifier(nn.Module):
    """A transformer over the eight rows of a digit, which returns its loss too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.place = nn.Parameter(torch.randn(8, 32) / 8)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, inputs: Tensor, labels: Tensor) -> Output:
        """Takes inputs [B, 8, 8] and labels, int64 [B] or probabilities [B, 10]."""
        logits = self.head(self.encoder(self.embed(inputs) + self.place).mean(1))
        return Output(nn.functional.cross_entropy(logits, labels), logits)


def loaders(seed: int) -> tuple[DataLoader[dict[str, Tensor]], DataLoader[dict[str, Tensor]]]:
    """Returns batches to train on and to test with; which digits are which depends on the seed."""
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 8, 8), torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    items = [{"inputs": x[i], "labels": y[i]} for i in order.tolist()]
    return DataLoader(items[:1000], 64, shuffle=True), DataLoader(items[1000:], 512)  # type: ignore[arg-type]


def mixed(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the batch after MixUp with one λ ~ Beta(1, 1)."""
    lam, partner = torch.rand(()), torch.randperm(len(batch["labels"]))
    x, y = batch["inputs"], nn.functional.one_hot(batch["labels"], 10).float()
    return {
        "inputs": lam * x + (1 - lam) * x[partner],
        "labels": lam * y + (1 - lam) * y[partner],
    }


def error_of(seed: int, report: Report, *, mixup: bool, epochs: int) -> float:
    """Trains with a seed; returns the test error in percent."""
    torch.manual_seed(seed)
    train, test = loaders(seed)
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    steps, warmup = epochs * len(train), 2 * len(train)
    schedule = LambdaLR(
        optimizer, lambda step: min(step / warmup, max(0.0, (steps - step) / (steps - warmup)))
    )
    for epoch in range(epochs):
        model.train()
        for batch in train:
            output = model(**(mixed(batch) if mixup else batch))
            output.loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        report(epoch=epoch + 1, train_loss=float(output.loss.detach()))
    model.eval()
    with torch.no_grad():
        wrong = sum(
            int((model(**batch).logits.argmax(1) != batch["labels"]).sum()) for batch in test
        )
    return 100 * wrong / len(test.dataset)  # type: ignore[arg-type]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=20, help="default: %(default)s; 3 or more")
    parser.add_argument("--workers", type=int, help="trials at a time; 0 without Ray")
    parser.add_argument("--output", default="results/compare-loop", help="default: %(default)s")
    given = parser.parse_args(arguments)
    functions = {
        "mixup": partial(error_of, mixup=True, epochs=given.epochs),
        "plain": partial(error_of, mixup=False, epochs=given.epochs),
    }
    print(hpo.compare(functions, given.seeds, output=given.output, workers=given.workers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
