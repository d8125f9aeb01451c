"""This module trains on pseudo-labels, with a fixed or falling threshold (APL), mixed or not."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from core.mixing.batch import soft_labels
from core.mixing.pairing import Pairing
from core.mixing.real_step import mixed_step
from core.policies.protocol import Policy
from core.semi_supervised.config import SemiSupervisedConfig
from core.semi_supervised.method import SemiBatch, SemiStep, SemiSupervisedMethod
from core.semi_supervised.threshold import threshold_at
from core.user_model.held_statistics import statistics_held
from core.user_model.precision import forget_casts


def pseudo_labels(probabilities: Tensor, threshold: float) -> Tensor:
    """Returns the most probable class where it exceeds the threshold (Algorithm 2, line 3).

    Args:
        probabilities: [U, C], floating, rows summing to 1.
        threshold: σ. Of 0 or less every label is accepted.

    Returns:
        [U], int64; −1 where none is accepted. Not differentiable.
    """
    confidence, label = probabilities.detach().max(dim=1)
    return torch.where(confidence > threshold, label, torch.full_like(label, -1))


def weighted_targets(
    y: Tensor,
    accepted: Tensor,
    *,
    num_classes: int,
    unlabelled: int,
    weight: float,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Returns soft labels of the size of the sample's weight: both terms of the loss in one mean.

    `soft_cross_entropy` is linear in the target. Rows of size n/B and weight·n/U, with n rows in
    all, make its mean over the rows the mean over the B labelled images plus weight times the mean
    over all U unlabelled ones, of which those without a label count 0 (L_s + L_us, Algorithm 2,
    line 9; Eq. 12). Within one of the two parts all sizes are equal, so a mixed label has it too.

    Args:
        y: [B], int64, true labels.
        accepted: [A], int64, pseudo-labels.
        num_classes: C.
        unlabelled: U ≥ A, the unlabelled images before any was left out.
        weight: of the unlabelled term.
        dtype: of the result, floating.

    Returns:
        [B + A, C], dtype; n = B + A.
    """
    n = len(y) + len(accepted)
    labelled = soft_labels(y, num_classes, dtype=dtype) * (n / len(y))
    if not len(accepted):
        return labelled
    pseudo_labels = soft_labels(accepted, num_classes, dtype=dtype)
    return torch.cat([labelled, pseudo_labels * (weight * n / unlabelled)])


class PseudoLabel(SemiSupervisedMethod):
    """This takes confident predictions as labels (Lee 2013), mixed by a policy (Algorithm 2).

    Each step labels the unlabelled images by the network as it stands, in training mode as in the
    step itself; those below the threshold are left out of it. The labelled images and the accepted
    ones are mixed each among themselves, with a λ for each (2B in all where all are accepted).
    A learned policy learns all of them on the sum of both losses. With `NoMix` this is plain
    pseudo-labelling.

    The labelling pass moves no statistics of BatchNorm; the step's does, on mixed images, as MixUp.
    Images without an accepted label take no part in that pass. Lee and Oliver et al. send all
    images through it and give those a weight of 0, so that they count in its batch statistics.
    Here they would be mixed too, and Algorithm 2 (line 8) mixes accepted ones among themselves.

    Args:
        config: of kind "pseudo-label".
        policy: how samples are mixed.

    Examples:
        >>> import torch, core
        >>> from core.semi_supervised import PseudoLabel, SemiSupervisedConfig
        >>> model = torch.nn.Linear(4, 3)
        >>> config = SemiSupervisedConfig("pseudo-label", labelled=40)
        >>> PseudoLabel(config, core.Beta(1.0)).views
        1
    """

    views = 1

    def __init__(self, config: SemiSupervisedConfig, policy: Policy):
        self._config = config
        self._policy = policy
        self.needs_meta_validation = policy.needs_meta_validation

    def step(
        self, model: nn.Module, optimizer: Optimizer, batch: SemiBatch, *, generator: Generator
    ) -> SemiStep:
        (x, y), (images,) = batch.labelled, batch.views
        with torch.no_grad(), statistics_held(model):
            probabilities = model(images.clone()).softmax(dim=1)
        forget_casts()
        labels = pseudo_labels(probabilities, self._threshold(batch.epoch))
        taken = labels >= 0
        inputs = torch.cat([x, images[taken]])
        targets = weighted_targets(
            y,
            labels[taken],
            num_classes=probabilities.shape[1],
            unlabelled=len(images),
            weight=self._config.weight_at(batch.progress),
            dtype=torch.promote_types(inputs.dtype, torch.float32),
        )
        mixed = inputs, targets
        interpolation = self._policy(
            model,
            optimizer,
            mixed,
            batch.val,
            generator=generator,
            indices=torch.cat([batch.indices[: len(x)], batch.indices[len(x) :][taken.cpu()]]),
            pairing=Pairing((len(x), len(inputs) - len(x))),
        )
        result = mixed_step(model, optimizer, mixed, interpolation)
        return SemiStep(
            result.loss,
            samples=len(images) + len(inputs) + interpolation.extra_samples,
            interpolation=interpolation,
            pseudo_labels=labels,
        )

    def metrics(self, epoch: int) -> dict[str, float]:
        """Returns the threshold."""
        return {"threshold": self._threshold(epoch)}

    def _threshold(self, epoch: int) -> float:
        c = self._config
        return threshold_at(
            epoch,
            start=c.threshold,
            step=c.threshold_step,
            period=c.threshold_period,
            formula=c.threshold_formula,
        )
