"""What every interpolation policy does: it gives each sample of a batch its partner and its λ."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from core.data import ImageSet, Transform
from core.mixing.batch import Batch, Loss, soft_cross_entropy
from core.mixing.interpolation import Interpolation
from core.mixing.pairing import ANY, Pairing


class Policy(Protocol):
    """What a policy sees and gives.

    It sees the model and the optimizer as they stand before the step, the batch, a meta-validation
    batch and a random stream; it changes none of them but the stream, and gives an `Interpolation`.

    A policy of one's own derives from this class and writes `__call__`; all else has a default.

    Attributes:
        needs_meta_validation: whether `val_batch` is read. If not, it may be None.
    """

    needs_meta_validation: bool = False

    @property
    def scores(self) -> Tensor | None:
        """[N], a score for each training sample, low where learning wants little of it; or None,
        as most policies keep none. See `PersistentScores` and `lowest_scores`."""
        return None

    @property
    def networks(self) -> nn.ModuleList:
        """Networks of its own, which learn with the model; the optimizer holds their parameters."""
        return nn.ModuleList()

    def metrics(self) -> dict[str, float]:
        """Returns what it says of the steps since the last call, by name."""
        return {}

    def held_out_metrics(
        self, model: nn.Module, images: ImageSet, transform: Transform
    ) -> dict[str, float]:
        """Returns what it says, after an epoch, of images that train nothing, by name.

        Networks and modes are as before on return.
        """
        return {}

    @abstractmethod
    def __call__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: Batch,
        val_batch: Batch | None = None,
        *,
        generator: torch.Generator | None = None,
        loss: Loss = soft_cross_entropy,
        indices: Tensor | None = None,
        pairing: Pairing = ANY,
    ) -> Interpolation:
        """Returns the interpolation of this batch. Shapes as in `learn_interpolation`.

        A model that returns more than logits is given as `core.with_logits(model, ...)`.

        `indices` [B], int64, are the positions of the samples in the training set. They are read by
        policies that keep something for each sample, which refuse None, and by no other. `pairing`
        says who may be paired with whom; a policy that does not mix has no use for it.
        """

    def state_dict(self) -> dict[str, Any]:
        """Returns what it carries from step to step, so that a resumed training gives the same
        numbers.

        The weights of its networks, unless it says more. Plain types and tensors only.
        """
        return self.networks.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads what `state_dict` gave."""
        self.networks.load_state_dict(state)
