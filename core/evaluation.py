"""Loss and error of a model on a set of images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from core.mixing.batch import soft_cross_entropy
from core.user_model.untouched import modes_kept

if TYPE_CHECKING:
    from core.data import ImageSet, Transform

BATCH = 200  # larger ones leave the processor's caches: 500 took 1.6 times as long on the CNN


@dataclass(frozen=True)
class Evaluation:
    """Mean loss; top-1 and (for 100 classes or more) top-5 error in percent."""

    loss: float
    error: float
    top5_error: float | None


def evaluate(
    model: nn.Module,
    images: ImageSet,
    transform: Transform,
    indices: Tensor | None = None,
    *,
    adjustment: Tensor | None = None,
) -> Evaluation:
    """Evaluates the model, in evaluation mode, on every image once, or on those at `indices`.

    Modes are as before on return, also of parts that stand in another mode than the whole (frozen
    BatchNorm).

    Args:
        indices: int64 [n]; None takes all images.
        adjustment: floating [C], subtracted from the logits; None: nothing.
    """
    rows = torch.arange(len(images)) if indices is None else indices
    # Read at the end: asking after each batch would make every one wait for the device.
    losses, sizes, wrong, wrong5 = [], [], [], []
    classes = 0
    with evaluating(model):
        for pixels, labels in images.batches(rows.split(BATCH)):
            logits = _adjusted(model(transform.evaluate(pixels)), adjustment)
            classes = logits.shape[1]
            sizes.append(len(labels))
            losses.append(soft_cross_entropy(logits, labels))
            wrong.append((logits.argmax(dim=1) != labels).sum())
            if classes >= 100:
                top5 = logits.topk(5, dim=1).indices
                wrong5.append((top5 != labels.unsqueeze(1)).all(dim=1).sum())
    n = len(rows)
    total = 0.0  # added up one by one: from Python 3.12 on `sum` rounds otherwise
    for loss, size in zip(torch.stack(losses).tolist(), sizes, strict=True):
        total += loss * size
    return Evaluation(
        loss=total / n,
        error=100 * int(torch.stack(wrong).sum()) / n,
        top5_error=100 * int(torch.stack(wrong5).sum()) / n if classes >= 100 else None,
    )


def predict(
    model: nn.Module,
    images: ImageSet,
    transform: Transform,
    *,
    adjustment: Tensor | None = None,
) -> Tensor:
    """Returns the model's class probabilities for one image or more, float64 [N, C] on the CPU.

    In evaluation mode, and modes are as before on return; adjusted, as in `evaluate`.
    """
    with evaluating(model):
        batches = images.batches(torch.arange(len(images)).split(BATCH))
        logits = [_adjusted(model(transform.evaluate(x)), adjustment) for x, _ in batches]
        return torch.cat([part.cpu().double().softmax(dim=1) for part in logits])


def _adjusted(logits: Tensor, adjustment: Tensor | None) -> Tensor:
    return logits if adjustment is None else logits - adjustment


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode and no gradient is kept; modes are as before after,
    also of parts that stand in another mode than the whole."""
    # Not inference mode: a table that the model makes now, and keeps, must serve training too.
    with modes_kept(model), torch.no_grad():
        model.eval()
        yield
