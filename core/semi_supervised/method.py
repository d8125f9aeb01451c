"""This module is the contract of all methods: what they see of a step and give back.

Shapes in this package: B labelled and U unlabelled images of a step, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from core.mixing.batch import Batch
from core.mixing.interpolation import Interpolation


@dataclass(frozen=True)
class SemiBatch:
    """This holds one step's images, augmented and normalized.

    Attributes:
        labelled: x [B, ...] floating, y [B] int64.
        views: as many as the method wants, each [U, ...]: the same unlabelled images, augmented
            independently.
        indices: int64 [B + U] on the CPU: positions in the training set, labelled first.
        val: the meta-validation batch of a method that needs one, else None.
        epoch: from 0.
        progress: share of the training's steps that are done, in [0, 1).

    Examples:
        >>> import torch
        >>> from core.semi_supervised import SemiBatch
        >>> labelled, views = (torch.randn(5, 4), torch.arange(5) % 3), (torch.randn(6, 4),)
        >>> batch = SemiBatch(labelled, views, torch.arange(11), val=None, epoch=0, progress=0.0)
        >>> len(batch.labelled[0]), len(batch.views[0])
        (5, 6)
    """

    labelled: Batch
    views: tuple[Tensor, ...]
    indices: Tensor
    val: Batch | None
    epoch: int
    progress: float


@dataclass(frozen=True)
class SemiStep:
    """This is what one step did.

    Attributes:
        loss: scalar, detached; all terms together, before the step.
        samples: sent forward, all passes counted.
        interpolation: of methods that mix samples.
        pseudo_labels: int64 [U], of methods that give such: the class, or −1 where none was
            accepted.

    Examples:
        >>> import torch
        >>> from core.semi_supervised import SemiStep
        >>> SemiStep(torch.tensor(0.7), samples=11).pseudo_labels is None
        True
    """

    loss: Tensor
    samples: int
    interpolation: Interpolation | None = None
    pseudo_labels: Tensor | None = None


class SemiSupervisedMethod(Protocol):
    """A method takes steps. It never sees labels of unlabelled images.

    Whoever derives from it carries nothing from step to step, and is judged by the model itself,
    but for what it overrides.

    Attributes:
        views: how many views of each unlabelled image it reads; 0: it reads none.
        needs_meta_validation: whether `SemiBatch.val` is read. If not, it may be None.

    Examples:
        >>> import torch
        >>> from core.semi_supervised import SemiSupervisedMethod, SupervisedOnly
        >>> class Halves(SupervisedOnly):  # or of SemiSupervisedMethod, with a step of its own
        ...     def metrics(self, epoch: int) -> dict[str, float]:
        ...         return {"half": epoch / 2}
        >>> method: SemiSupervisedMethod = Halves()
        >>> method.metrics(3), method.needs_meta_validation
        ({'half': 1.5}, False)
    """

    views: int
    needs_meta_validation: bool = False

    def step(
        self, model: nn.Module, optimizer: Optimizer, batch: SemiBatch, *, generator: Generator
    ) -> SemiStep:
        """Takes the whole step: gradients, `optimizer.step()`, averages.

        `model` is in training mode and stays in it. All that is random but dropout is drawn from
        `generator`, on its own device. BatchNorm's running statistics move in one of its passes at
        most.
        """

    def evaluated(self, model: nn.Module) -> nn.Module:
        """Returns the network that counts: `model`, or its average. Its mode may be changed."""
        return model

    def metrics(self, epoch: int) -> dict[str, float]:
        """Returns what belongs into the history of an epoch (from 0), such as the threshold."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Returns what it carries from step to step, so that a resumed training is the same."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned."""
        return
