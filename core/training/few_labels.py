"""The loop of a semi-supervised training, an epoch at a time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from core.data import ImageSet, Source
from core.evaluation import Evaluation, evaluate
from core.mixing.batch import Batch
from core.semi_supervised.build import build_method
from core.semi_supervised.method import SemiBatch
from core.training.config import TrainingConfig
from core.training.few_labels_data import prepare_semi_data
from core.training.pseudo_label_statistics import PseudoLabelStatistics
from core.training.result import Metrics, TrainingResult
from core.training.statistics import LambdaStatistics
from core.training.training import Training, whole_batches
from core.user_model.precision import wide_dtype
from core.user_model.untouched import train_mode

LAST_EPOCHS = 20
"""Whose test errors `TrainingResult.median_error` is the median of (Berthelot et al. 2019)."""


class SemiSupervisedTraining(Training):
    """One training with a `SemiSupervisedConfig`; the rest is as in `Training`.

    An epoch is one shuffled pass over the unlabeled images in whole batches; labeled and
    meta-validation images come in reshuffled passes of their own, as many as that takes. Methods
    that differ see the same labeled images, in the same order and augmentation, and so do the
    unlabeled ones, whatever the number of their views.
    """

    def __init__(self, config: TrainingConfig, source: Source, device: torch.device | str):
        assert config.semi is not None
        super().__init__(config, source, device)
        self._semi = config.semi
        self._method = build_method(config.semi, self._model, self.policy)
        self._test_errors: list[float] = []

    def _load(self, source: Source) -> Tensor:
        self._images = prepare_semi_data(self.config, source, self.device)
        return self._images.labelled.labels

    def epoch(self) -> Metrics:
        """Trains the next epoch, evaluates, and returns its metrics.

        In the last 20 epochs the test images are read too, for their median error.

        Raises:
            DivergenceError: the loss became NaN or infinite.
        """
        begun = time.perf_counter()
        lam, labels = LambdaStatistics(), PseudoLabelStatistics()
        total = torch.zeros((), dtype=wide_dtype(self.device), device=self.device)
        meta_losses: list[Tensor] = []
        order = self._unlabelled_order()
        samples = 0
        train_mode(self._model)
        for i, (rows, batch) in enumerate(zip(order, self._batches(order), strict=True)):
            self._set_rate(i, len(order))
            with self._precision.region():
                step = self._method.step(
                    self._model, self._optimizer, batch, generator=self._streams["policy"]
                )
            samples += step.samples
            total += step.loss.to(total.dtype)
            if step.interpolation is not None:
                lam.add(step.interpolation)
                if step.interpolation.meta_loss is not None:
                    meta_losses.append(step.interpolation.meta_loss)
            if step.pseudo_labels is not None:
                labels.add(step.pseudo_labels, self._images.true_labels[rows])
        meta_loss = float(torch.stack(meta_losses).to(total.dtype).mean()) if meta_losses else None

        def observe() -> Metrics:
            if len(self.history) >= self.config.epochs - LAST_EPOCHS:
                self._test_errors = [*self._test_errors, self._test().error]
            return self._method.metrics(len(self.history)) | labels.metrics()

        return self._end_epoch(
            begun,
            steps=len(order),
            train_loss=float(total) / len(order),
            samples=samples,
            lam=lam,
            meta_loss=meta_loss,
            observe=observe,
        )

    def result(self) -> TrainingResult:
        """See `Training.result`; of fewer than 20 epochs the median is over all of them."""
        median = statistics.median(self._test_errors) if self._test_errors else None
        # Scores would count labeled and unlabeled images together: no order that others know.
        return replace(super().result(), median_error=median, scores=None)

    def state_dict(self) -> dict[str, Any]:
        """See `Training.state_dict`."""
        return {
            **super().state_dict(),
            "method": self._method.state_dict(),
            "test_errors": self._test_errors,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads what `state_dict` gave."""
        super().load_state_dict(state)
        self._method.load_state_dict(state["method"])
        self._test_errors = state["test_errors"]

    def _validate(self) -> Evaluation:
        return self._evaluate(self._images.meta)

    def _test(self) -> Evaluation:
        return self._evaluate(self._images.test)

    def _evaluate(self, images: ImageSet) -> Evaluation:
        return evaluate(self._method.evaluated(self._model), images, self._images.transform)

    def _unlabelled_order(self) -> list[Tensor]:
        n = len(self._images.unlabelled)
        batch = min(self._semi.unlabelled_batch or self.config.batch_size, n)
        return whole_batches(n, batch, n // batch, self._streams["unlabelled_order"])

    def _batches(self, order: Sequence[Tensor]) -> Iterator[SemiBatch]:
        images, streams, steps = self._images, self._streams, len(order)
        epoch = len(self.history)
        transform, views = images.transform, self._method.views
        labelled = _passes(images.labelled, self.config.batch_size, steps, streams["order"])
        meta = (
            _passes(images.meta, self.config.meta_batch_size, steps, streams["meta"], moved=False)
            if self._method.needs_meta_validation
            else None
        )
        # What is drawn at random while it is read is read anew for each view.
        reads = views if images.unlabelled.draws else min(views, 1)
        unlabelled = [
            images.unlabelled.batches(order, streams["unlabelled_augmentation"])
            for _ in range(reads)
        ]
        for i, rows in enumerate(order):
            at, (x, y) = next(labelled)
            augmented = transform.train(x, streams["augmentation"])
            pixels = [next(batches)[0] for batches in unlabelled]
            yield SemiBatch(
                labelled=(augmented, y),
                views=tuple(
                    transform.train(pixels[view % reads], streams["unlabelled_augmentation"])
                    for view in range(views)
                ),
                indices=torch.cat([at, len(images.labelled) + rows]),
                val=None if meta is None else self._evaluable(next(meta)[1]),
                epoch=epoch,
                progress=(epoch * steps + i) / (steps * self.config.epochs),
            )

    def _evaluable(self, batch: Batch) -> Batch:
        return self._images.transform.evaluate(batch[0]), batch[1]


def _passes(
    images: ImageSet, size: int, steps: int, generator: torch.Generator, *, moved: bool = True
) -> Iterator[tuple[Tensor, Batch]]:
    """Returns so many batches from reshuffled passes, whole batches only: positions and images,
    read as those that train where they are to be moved, else as those of evaluation."""
    order = whole_batches(len(images), size, steps, generator)
    yield from zip(order, images.batches(order, generator if moved else None), strict=True)
