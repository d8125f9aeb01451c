"""Looks at a training as it goes, by its configuration: collects, and tells at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from core.analysis.class_pairs import label_entropy, mean_by_class_pair
from core.analysis.config import AnalysisConfig
from core.analysis.curvature import draw_pairs, look, looks_at
from core.analysis.findings import Findings
from core.analysis.intrusion import MixedPairs, intrusion
from core.data import ImageSet
from core.data.prepared import CellData
from core.evaluation import BATCH, evaluate, evaluating
from core.mixing.interpolation import Interpolation
from core.models import ImageClassifier


class Observer:
    """Looks at one training. Draws nothing, and leaves model and data as they are.

    Args:
        config: what to look at.
        data: what the training reads.
        num_classes: C.
        epochs: of the whole training.

    Examples:
        >>> import core
        >>> from core.analysis import AnalysisConfig
        >>> from core.training.fit import fit
        >>> config = core.training.TrainingConfig(
        ...     "digits", "digits_cnn", core.Beta(1.0), epochs=1, meta_size=100, train_size=100,
        ...     analysis=AnalysisConfig(pair_epochs=(1,)),
        ... )
        >>> fit(config).analysis.pair_epochs  # an Observer looked on
        [1]
    """

    def __init__(self, config: AnalysisConfig, data: CellData, num_classes: int, epochs: int):
        self._config, self._data = config, data
        self._num_classes, self._epochs = num_classes, epochs
        self._pairs_at = config.pairs_at(epochs)
        self._pair_lam: list[list[list[float | None]]] = []
        self._steps: list[tuple[Tensor, Tensor, Tensor]] = []
        self._mixed: list[MixedPairs] = []
        self._unmixed = _spaced(data.train, config.unmixed_images)
        pairs = config.curvature_pairs
        self._curvature = draw_pairs(data, pairs) if pairs else None

    def step(self, indices: Tensor, interpolation: Interpolation) -> None:
        """Takes in one step: `indices` int64 [B] are the positions of its images in the training
        set."""
        # Not the interpolation itself, which may hold on to a graph.
        self._steps.append((indices, interpolation.partner, interpolation.lam.detach()))

    def epoch(self, number: int, model: ImageClassifier) -> dict[str, float]:
        """Ends the epoch of this number, from 1, and returns its metrics: label_entropy, and where
        it is asked for unmixed_loss, and what `core.analysis.curvature.look` sees."""
        pairs, self._steps = _pairs(self._steps), []
        labels = self._data.train.labels
        classes = labels[pairs.first], labels[pairs.second]
        metrics = {"label_entropy": label_entropy(pairs.lam, *classes)}
        if number in self._pairs_at:
            self._pair_lam.append(mean_by_class_pair(pairs.lam, *classes, self._num_classes))
        wanted = self._config.mixed_samples
        share = wanted * number // self._epochs - wanted * (number - 1) // self._epochs
        # The order of an epoch is random, so its first pairs are as good as any.
        self._mixed.append(MixedPairs(pairs.first[:share], pairs.second[:share], pairs.lam[:share]))
        if len(self._unmixed):
            metrics["unmixed_loss"] = self._unmixed_loss(model)
        if self._curvature is not None and number in looks_at(self._epochs):
            metrics |= look(model, self._curvature)
        return metrics

    def findings(self, model: ImageClassifier) -> Findings:
        """Returns what was found, with what is to be measured of the trained model."""
        plane = _spaced(self._data.test, self._config.plane_images)
        mixed = _joined(self._mixed)
        distances: dict[str, float] = {}
        if len(mixed):
            distances = asdict(intrusion(model, self._data.train, self._data.transform, mixed))
        return Findings(
            pair_epochs=list(self._pairs_at[: len(self._pair_lam)]),
            pair_lam=self._pair_lam,
            plane=self._plane(model, plane) if len(plane) else [],
            plane_labels=self._data.test.labels[plane].tolist(),
            intrusion=distances,
        )

    def state_dict(self) -> dict[str, Any]:
        """Returns what it has collected, tensors and plain types."""
        mixed = _joined(self._mixed)
        return {
            "pair_lam": self._pair_lam,
            "first": mixed.first,
            "second": mixed.second,
            "lam": mixed.lam,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads what `state_dict` gave."""
        self._pair_lam = state["pair_lam"]
        mixed = (state[name].cpu() for name in ("first", "second", "lam"))
        self._mixed = [MixedPairs(*mixed)]

    def _unmixed_loss(self, model: ImageClassifier) -> float:
        return evaluate(model, self._data.train, self._data.transform, self._unmixed).loss

    def _plane(self, model: ImageClassifier, indices: Tensor) -> list[list[float]]:
        with evaluating(model):
            batches = self._data.test.batches(indices.split(BATCH))
            features = [model.features(self._data.transform.evaluate(x)) for x, _ in batches]
        return [[float(f"{value:.5g}") for value in row] for row in torch.cat(features).tolist()]


def _spaced(images: ImageSet, count: int) -> Tensor:
    """Returns positions of so many images, all of them at most, evenly spaced over the set."""
    count = min(count, len(images))
    return torch.arange(count) * len(images) // max(1, count)


def _pairs(steps: list[tuple[Tensor, Tensor, Tensor]]) -> MixedPairs:
    """Returns the pairs of an epoch, on the CPU in order."""
    parts = []
    for indices, partner, lam in steps:
        rows = indices.cpu()
        # A policy may mix a part of the batch only: the first of it, among themselves.
        parts.append(MixedPairs(rows[: len(lam)], rows[partner.cpu()], lam.cpu()))
    return _joined(parts)


def _joined(parts: list[MixedPairs]) -> MixedPairs:
    nothing = torch.zeros(0, dtype=torch.int64)
    return MixedPairs(
        torch.cat([nothing, *(part.first for part in parts)]),
        torch.cat([nothing, *(part.second for part in parts)]),
        torch.cat([torch.zeros(0), *(part.lam.float() for part in parts)]),
    )
