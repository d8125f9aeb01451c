"""This module is MixMatch (Berthelot et al. 2019), without its MixUp and with λ learned too.

Equations are numbered as in that paper; what it leaves open is as in its authors' code
(google-research/mixmatch), here called the source. Legend: B labelled and U unlabelled images, K
views of each unlabelled one, C classes; n = B + K·U rows, the labelled ones first, then view after
view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from core.mixing.batch import mix_labels, soft_cross_entropy, soft_labels
from core.mixing.kinds import INPUT
from core.mixing.pairing import Pairing
from core.policies.protocol import Policy
from core.semi_supervised.averaging import CarriesAverage
from core.semi_supervised.config import SemiSupervisedConfig
from core.semi_supervised.method import SemiBatch, SemiStep
from core.user_model.held_statistics import statistics_held
from core.user_model.precision import descend, forget_casts


def sharpen(p: Tensor, temperature: float) -> Tensor:
    """Returns `p_c^(1/T) / Σ_c p_c^(1/T)` of each row (Eq. 7): one-hot as T → 0, p at T = 1.

    Args:
        p: [n, C], floating, rows summing to 1.
        temperature: T, positive and finite.

    Returns:
        [n, C], rows summing to 1.
    """
    # By logarithms, so that a small T does not underflow to 0/0.
    return torch.softmax(p.log() / temperature, dim=1)


def guess_labels(model: nn.Module, views: Sequence[Tensor], temperature: float) -> Tensor:
    """Returns one label for all views of an image: the mean prediction (Eq. 6), sharpened.

    In the model's own mode, so in training by batch statistics, those of each view's batch, as the
    source does; no running statistics move.

    Args:
        model: maps x [U, ...] to logits [U, C].
        views: K tensors [U, ...], floating, of the same images in the same order.
        temperature: of `sharpen`.

    Returns:
        [U, C], rows summing to 1, without a graph.
    """
    with torch.no_grad(), statistics_held(model):
        predictions = torch.stack([torch.softmax(model(view.clone()), dim=1) for view in views])
    forget_casts()
    return sharpen(predictions.mean(0), temperature)


def interleaved(sizes: Sequence[int], device: torch.device | str = "cpu") -> list[Tensor]:
    """Returns the rows of the passes that labelled and unlabelled samples are forwarded in.

    Running statistics are to move by one pass only, and it must not be the labelled samples' alone.
    Each of the K + 1 batches is cut into K + 1 parts, and part i of batch 0 changes places with
    part i of batch i. Parts are of equal size, those that cannot be come last and are one larger.
    Batches of different sizes, which the source does not have, are cut each for itself.

    Args:
        sizes: rows of the labelled batch, then of each view, at least 1 each.
        device: of the result; where the rows are, no step has to wait for a copy.

    Returns:
        K + 1 tensors of row numbers, int64, a permutation of the rows when joined; none is empty.
    """
    k = len(sizes)
    parts = []
    for rows in torch.arange(sum(sizes), device=device).split(list(sizes)):
        small, larger = divmod(len(rows), k)
        parts.append(list(rows.split([small] * (k - larger) + [small + 1] * larger)))
    for i in range(1, k):
        parts[0][i], parts[i][i] = parts[i][i], parts[0][i]
    return [torch.cat(part) for part in parts]


def interleaved_logits(model: nn.Module, x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Returns the output of passes of `interleaved` rows; only the first moves BatchNorm.

    Each pass is normalized by its own batch statistics, as in the source.

    Args:
        model: maps x [m, ...] to logits [m, C].
        x: [n, ...], floating, the joined batches.
        sizes: see `interleaved`; they sum to n.

    Returns:
        [n, C] in the order of x.
    """
    rows = interleaved(sizes, x.device)
    logits = [model(x[rows[0]])]
    with statistics_held(model):
        logits += [model(x[others]) for others in rows[1:]]
    return torch.cat(logits)[torch.cat(rows).argsort()]


@dataclass(frozen=True)
class MixMatchLoss:
    """This is cross-entropy on labelled rows, and λu times the unlabelled ones' squared error.

    The very same object gives the loss of the real batch, of the virtual batch that λ is learned
    by, and, as plain cross-entropy, of the validation batch; so the hypergradient is that of
    MixMatch's own objective.

    Attributes:
        labelled: B; rows from there on are unlabelled.
        weight: λu at this step.
    """

    labelled: int
    weight: float

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the cross-entropy of labelled samples, those of validation."""
        return soft_cross_entropy(logits, target)

    def mixed(self, logits: Tensor, y: Tensor, lam: Tensor, partner: Tensor) -> Tensor:
        """Returns `Lx + λu·Lu` (Eqs. 3 to 5), differentiable in logits (twice) and lam.

        Lu is the mean of the squared difference of probabilities over rows and classes: λu of the
        source is for this mean.

        Args:
            logits: [n, C], floating, of the mixed batch, B < n.
            y: [n, C], soft labels before mixing, guesses for the unlabelled rows.
            lam: [n], floating.
            partner: [n], int64.
        """
        target = mix_labels(y, lam, partner, logits.shape[1])
        supervised = soft_cross_entropy(logits[: self.labelled], target[: self.labelled])
        difference = torch.softmax(logits[self.labelled :], dim=1) - target[self.labelled :]
        return supervised + self.weight * difference.square().mean()


class MixMatch(CarriesAverage):
    """MixMatch guesses labels, mixes all rows, and takes cross-entropy and squared error.

    The policy decides how rows are mixed: `Beta(0.75, per_sample=True)` is MixMatch, `NoMix` is
    its ablation without MixUp, `Learned` is MixMatch + MetaMixUp. With the same λ they give the
    same loss to the last bit.

    Labels are guessed before anything is mixed and are constants for both the real step and the
    hypergradient. In the hypergradient's virtual step all rows are one pass, and one batch to
    BatchNorm; the real step forwards them in K + 1 interleaved passes, each normalized by itself.

    The source decays the weights of its layers by 1 − lr·wd at each Adam step, biases and BatchNorm
    not; `core.training.optimizers.build_optimizer` does so for "adamw". The moving average has the
    parameters' averages, and the running statistics as they are.

    In the source λu is 75 on CIFAR-10 and 250 on SVHN and comes up linearly over 1/64 of the
    training, K = 2, T = 0.5 and the decay of the average 0.999.

    Args:
        config: of kind "mixmatch".
        model: the one that will be trained; the moving average begins with a copy of it.
        policy: how rows are mixed, of whole inputs (`InputMixing`).

    Examples:
        >>> import torch, core
        >>> from core.semi_supervised import MixMatch, SemiSupervisedConfig
        >>> model = torch.nn.Linear(4, 3)
        >>> config = SemiSupervisedConfig("mixmatch", labelled=40, ema=0.99)
        >>> MixMatch(config, model, core.Beta(1.0, per_sample=True)).views
        2
    """

    def __init__(self, config: SemiSupervisedConfig, model: nn.Module, policy: Policy):
        assert config.ema is not None
        self._config = config
        self._policy = policy
        super().__init__(model, config.ema)
        self._pairing = Pairing(dominant=config.dominant)
        self.views = config.augmentations
        self.needs_meta_validation = policy.needs_meta_validation

    def step(
        self, model: nn.Module, optimizer: Optimizer, batch: SemiBatch, *, generator: Generator
    ) -> SemiStep:
        """Takes one step; see `SemiSupervisedMethod`.

        Raises:
            ValueError: the batch has another number of views than K; the policy mixes anything but
                whole inputs, which cannot be forwarded in parts.
        """
        if len(batch.views) != self.views:
            raise ValueError(f"MixMatch wants {self.views} views, got {len(batch.views)}")
        x, y, sizes = self._rows(model, batch)
        labelled = sizes[0]
        loss = MixMatchLoss(labelled, self._config.weight_at(batch.progress))
        indices = [batch.indices[:labelled], batch.indices[labelled:].repeat(self.views)]
        interpolation = self._policy(
            model,
            optimizer,
            (x, y),
            batch.val,
            generator=generator,
            loss=loss,
            indices=torch.cat(indices),
            pairing=self._pairing,
        )
        if interpolation.mixing != INPUT:
            raise ValueError(
                "MixMatch forwards its samples in interleaved parts, so it can mix whole inputs "
                f"only; got {type(interpolation.mixing).__name__}"
            )
        optimizer.zero_grad(set_to_none=True)
        logits = interleaved_logits(model, interpolation.mix_inputs(x), sizes)
        value = interpolation.loss(logits, y, loss)
        descend(optimizer, value)
        self.average.update(model)
        guessed = len(x) - labelled
        samples = guessed + interpolation.extra_samples + len(x)
        return SemiStep(value.detach(), samples, interpolation)

    def _rows(self, model: nn.Module, batch: SemiBatch) -> tuple[Tensor, Tensor, list[int]]:
        """Returns all rows x [n, ...], their labels y [n, C], with guesses, and the K + 1 sizes."""
        x, y = batch.labelled
        guess = guess_labels(model, batch.views, self._config.temperature)
        known = soft_labels(y, guess.shape[1], dtype=guess.dtype)
        sizes = [len(y), *[len(guess)] * self.views]
        return torch.cat([x, *batch.views]), torch.cat([known, guess.repeat(self.views, 1)]), sizes
