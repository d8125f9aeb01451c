"""A weight for each training sample, learned by hypergradient and kept over the whole training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.meta.reading import SCORES, Reading
from core.policies.kept_scores import KeptScores
from core.policies.limits import check_weights
from core.policies.protocol import StepInput
from core.policies.sample_weights import SampleWeights
from core.policies.stored_state import check_stored
from core.user_model.ranks import Ranks


@dataclass
class PersistentWeights(SampleWeights):
    """Weights σ(s_i) in the loss, the scores s learned: `PersistentScores` without mixing.

    It is data hyper-cleaning (Franceschi et al., "Bilevel Programming for Hyperparameter
    Optimization and Meta-Learning", ICML 2018, Section 5.1, there with weights themselves) by the
    hypergradient of one step. Each step takes the hypergradient at the weights of its batch, turns
    it into a move of the scores as `Reading.move` does, and descends the loss at the moved weights.
    Samples must come with `indices`. Belongs to one training.

    Attributes:
        reading: how a hypergradient becomes a move; its start is not used, and its projection,
            meta_steps and inner_step are those of `Reading()`.
        initial: s at first.

    See `SampleWeights` for the rest.

    Examples:
        >>> import torch, core
        >>> policy = core.PersistentWeights()
        >>> model, optimizer, batch, val_batch = core.testing.toy_problem()
        >>> policy(model, optimizer, batch, val_batch, indices=torch.arange(8)).weights.shape
        torch.Size([8])
    """

    reading: Reading = SCORES
    initial: float = 0.0

    def __post_init__(self) -> None:
        check_weights(self.reading)
        self._kept = KeptScores(self.initial)
        self._indices = torch.zeros(0, dtype=torch.int64)

    @property
    def scores(self) -> Tensor:
        """[N], float32: s of each training sample up to the last one seen so far, a copy."""
        return self._kept.values.clone()

    def start(self, step: StepInput, like: Tensor, ranks: Ranks) -> Tensor:
        """Returns σ of the scores of the batch; see `SampleWeights`."""
        self._indices = self._kept.reach(step.indices, len(like), like.device)
        return self._weights().to(like.dtype)

    def learned(self, start: Tensor, moving: Tensor, ranks: Ranks) -> Tensor:
        """Moves the scores, and returns σ of them; see `SampleWeights`."""
        move = self.reading.move(torch.zeros_like(start), start, moving, ranks)
        self._kept.add(self._indices, move, ranks)
        return self._weights().to(start.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Returns the scores."""
        return {"scores": self.scores}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_stored(self, state, PersistentWeights)
        self._kept.values = state["scores"].clone()

    def _weights(self) -> Tensor:
        return torch.sigmoid(self._kept.values[self._indices])
