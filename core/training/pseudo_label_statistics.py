"""What an epoch's pseudo-labels were worth."""

from __future__ import annotations

import torch
from torch import Tensor


class PseudoLabelStatistics:
    """Counts pseudo-labels against the true labels, which nothing else sees."""

    def __init__(self) -> None:
        self._given: list[Tensor] = []
        self._true: list[Tensor] = []

    def add(self, pseudo_labels: Tensor, true_labels: Tensor) -> None:
        """Takes in one step: int64 [U] each, the first −1 where none was accepted."""
        self._given.append(pseudo_labels)
        self._true.append(true_labels)

    def metrics(self) -> dict[str, float]:
        """Returns `accepted`, percent of the images, and `accepted_accuracy`, percent of these that
        are right; the latter is left out where none was accepted, all where nothing was added."""
        if not self._given:
            return {}
        given, true = torch.cat(self._given).cpu(), torch.cat(self._true)
        accepted = given >= 0
        metrics = {"accepted": 100 * float(accepted.double().mean())}
        if bool(accepted.any()):
            right = (given == true)[accepted]
            metrics["accepted_accuracy"] = 100 * float(right.double().mean())
        return metrics
