"""One score for each training sample, moved by hypergradient and kept over the whole training.

MetaMixUp forgets what it learned with each batch. Scores add it up: how far the validation loss
wants a sample to be mixed away, over all the batches and partners it was seen with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.meta.gradient import Engine
from core.meta.reading import SCORES, Reading
from core.meta.stage import MetaOptions
from core.meta.validation_gradient import ValidationGradient
from core.mixing.batch import check_batch
from core.mixing.interpolation import Interpolation
from core.mixing.kinds import INPUT, Mixing, takes_tokens
from core.policies.kept_scores import KeptScores
from core.policies.limits import check_scores
from core.policies.protocol import Policy, StepInput
from core.policies.stored_state import check_stored
from core.random_streams import stream_device
from core.user_model.ranks import Ranks
from core.user_model.untraced import untraced
from core.user_model.wrapped_models import ranks_of


@dataclass
class PersistentScores(Policy):
    """λ_ij = sigmoid(ε + s_i − s_j) of sample i and its partner j, the scores s learned.

    Scores start at 0 and ε = logit(λ0), so λ starts as λ0 is drawn: with the default reading ε is
    logistic and λ uniform. A meta stage takes the hypergradient at this λ, turns it into a move of
    the logit as `Reading.move` does (α times the derivative scaled to RMS 1 over the joint batch of
    all ranks), and adds the move to s_i and subtracts it from s_j. A sample that comes up several
    times in a batch, as itself or as a partner, is moved by the sum. The real batch is mixed by the
    moved scores with the same ε.

    A low score says that the validation loss wants little of a sample: mislabeled samples sink,
    and those of classes that the training set has too many of. Evidence (`studies/scenarios.py`; 10
    seeds, test error in percent and 95 % interval; differences are paired, p by Holm's method):
    small CNN, 500 clean balanced validation images, steps of 0.5, before meta-validation images
    chose those of 0.1. The placebo is that of `permute`, and λ is frozen as it was in the end.

    - Fashion-MNIST at 14×14, 40 % of 4,000 labels wrong: 19.00 ± 0.27, and minus its placebo −2.29
      [−2.75, −1.83], minus frozen λ −1.63 [−2.01, −1.25], minus MixUp with searched α −1.37
      [−1.58, −1.15], each p < 0.001. Wrong labels rank below right ones with an AUC of
      0.901 ± 0.004, the placebo's with 0.496 ± 0.008.
    - Long tail (50 to 1), Fashion-MNIST: 21.86 ± 0.68, and −9.99 [−14.74, −5.24], −7.65
      [−12.81, −2.48], −4.78 [−7.05, −2.51], p = 0.004, 0.017, 0.004; CIFAR-10 at 16×16:
      62.81 ± 0.92, and −6.90 [−7.50, −6.30], −7.37 [−7.87, −6.87], −6.45 [−7.31, −5.58], each
      p < 0.001.

    A meta stage at every fourth step keeps about half of the gain. Weighting samples by their
    score, scores for classes beside those of samples, hypergradients taken at unmoved λ, a start at
    Beta(0.2) and a decaying step were tried with one or two seeds and were not better. On clean
    balanced images they lose: 16.27 % against 15.50 % of the best Beta (3 seeds, p = 0.018).

    Belongs to one training. Under DistributedDataParallel all ranks keep the same scores, and
    `indices` count through the whole training set.

    Attributes:
        reading: how λ starts, and how a hypergradient becomes a move; see `Reading`. Its projection
            must be "sigmoid_before" and its meta_steps 1.
        every: k ≥ 1: the meta stage acts at every k-th step, the first one included. Between, λ is
            that of the scores, a step costs what a step of plain MixUp costs, and `val_batch` is
            not read.
        placebo: the control: scores are learned as ever, at the λ that they give, and each sample
            is mixed by the score of another one, always the same. So λ is as spread as in learning
            at every time, and no sample gets what was learned for it.
        permute: an earlier control: hypergradients are permuted within the batch before they move
            scores, which so become random walks, and spread further than learned ones.
        engine, mixing, last_blocks, validation_gradient: as in `Learned`.

    Examples:
        >>> import torch, core
        >>> policy = core.PersistentScores()
        >>> model, optimizer, batch, val_batch = core.testing.toy_problem()
        >>> interpolation = policy(
        ...     model, optimizer, batch, val_batch, indices=torch.arange(8)
        ... )
        >>> policy.scores.shape
        torch.Size([8])
    """

    reading: Reading = SCORES
    every: int = 1
    placebo: bool = False
    permute: bool = False
    engine: Engine = "auto"
    mixing: Mixing = INPUT
    last_blocks: int | None = None
    validation_gradient: ValidationGradient | None = None
    needs_meta_validation = True

    def __post_init__(self) -> None:
        check_scores(self.reading, self.every)
        self._steps = 0
        self._kept = KeptScores()
        self._seed: int | None = None
        self._other = torch.zeros(0, dtype=torch.int64)

    @property
    def scores(self) -> Tensor:
        """Returns the score that each training sample up to the last one seen so far is mixed by,
        [N], float32; in a placebo that of another one.

        A copy: later steps leave this tensor as it is.
        """
        return self._kept.values[self._others() if self.placebo else slice(None)].clone()

    @untraced
    def interpolate(self, step: StepInput) -> Interpolation:
        """Does as `Learned`, at λ of the scores.

        `change` of what it gives is λ minus λ at scores of 0, so all that learning has done to it.
        At every step the stream advances by λ0, the pairing and what the mixing draws, in this
        order. After them a placebo draws an integer at its first step, and `permute` a permutation
        at steps that learn.

        `indices` are best on the CPU; elsewhere every step waits for the device.

        Raises:
            ValueError: `indices` are missing or off; `val_batch` is None at a step that learns; as
                `hypergradient`.
        """
        batch, pairing = step.batch, step.pairing
        check_batch(batch, "training", tokens=takes_tokens(self.mixing))
        x = batch[0]
        first = self._kept.reach(step.indices, x.shape[0], x.device)
        learns = self._steps % self.every == 0
        if learns:
            step.validation()

        options = MetaOptions(
            self.reading,
            self.engine,
            self.mixing,
            self.last_blocks,
            self.validation_gradient,
            self.permute,
        )
        lam_init, partner, options = options.drawn(x, pairing, step.generator)
        epsilon, second = self.reading.start(pairing.share(lam_init)), first[partner]
        ranks = ranks_of(step.model)
        if self.placebo and self._seed is None:
            self._seed = _seed(x.device, step.generator, ranks)
            self._other = self._other[:0]  # who read scores before had a cycle of no seed
        share = self._share(epsilon, first, second)
        lam = pairing.lam(share)
        slope = None
        if learns:
            slope = step.slope(options, lam, partner)
            moving = pairing.span * slope.moving
            move = self.reading.move(torch.zeros_like(share), share, moving, ranks)
            self._kept.add(torch.cat([first, second]), torch.cat([move, -move]), ranks)
        if self.placebo:
            other = self._others()
            first, second = other[first], other[second]
        lam = pairing.lam(self._share(epsilon, first, second))
        self._steps += 1
        return Interpolation(
            lam=lam,
            partner=partner,
            lam_init=lam_init,
            change=lam - pairing.lam(self.reading.final(epsilon)),
            hypergradient=None if slope is None else slope.hypergradient,
            meta_loss=None if slope is None else slope.meta_loss,
            extra_samples=0 if slope is None else slope.samples,
            mixing=options.mixing,
        )

    def state_dict(self) -> dict[str, Any]:
        """Returns all that a resumed training needs; "scores" are those learned."""
        v = self.validation_gradient
        return {
            "steps": self._steps,
            "scores": self._kept.values.clone(),
            "seed": self._seed,
            "validation_gradient": None if v is None else v.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_stored(self, state, PersistentScores, optional=["seed"])
        self._steps, self._kept.values = int(state["steps"]), state["scores"].clone()
        self._seed = state.get("seed")
        self._other = torch.zeros(0, dtype=torch.int64)  # the cycle of another seed
        if self.validation_gradient is not None:
            self.validation_gradient.load_state_dict(state["validation_gradient"])

    def _share(self, epsilon: Tensor, first: Tensor, second: Tensor) -> Tensor:
        difference = self._kept.values[first] - self._kept.values[second]
        return self.reading.final(epsilon + difference.to(epsilon.dtype))

    def _others(self) -> Tensor:
        """Returns for each sample the one whose score it is mixed by in a placebo, [N], int64.

        A random cycle through all: none is its own. A sample that is first seen now joins in
        between two, and all others stay as they are.
        """
        n = len(self._kept.values)
        if len(self._other) != n or self._other.device != self._kept.values.device:
            order = torch.from_numpy(np.random.default_rng(self._seed).random(n)).argsort()
            other = torch.empty_like(order)
            other[order] = order.roll(1)
            self._other = other.to(self._kept.values.device)
        return self._other


def _seed(device: torch.device, generator: torch.Generator | None, ranks: Ranks) -> int:
    """Draws the number that says who gets whose score; one for all ranks."""
    drawn = torch.randint(2**31, (1,), generator=generator, device=stream_device(generator))
    return int(ranks.largest(drawn.to(device)))


def lowest_scores(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Returns the k samples that learning mixes away most: look at their labels first.

    Args:
        scores: [N], floating; `PersistentScores.scores`, or `["policy"]["scores"]` of the
            checkpoint that `core.training.fit` leaves, whose positions are those of
            `core.training.prepared_data.prepare_data(...).train`.
        k: how many, in [1, N].

    Returns:
        Positions in the training set [k], int64, and their scores [k], lowest first; of equal
        scores the earlier sample. Both on the scores' device.

    Raises:
        ValueError: k is out of range, or there is no score.

    Examples:
        >>> import torch, core
        >>> positions, scores = core.lowest_scores(torch.tensor([0.5, -2.0, -0.25]), k=2)
        >>> positions.tolist(), scores.tolist()
        ([1, 2], [-2.0, -0.25])
    """
    if not len(scores):
        raise ValueError("there are no scores yet: they begin with the policy's first call")
    if not 1 <= k <= len(scores):
        raise ValueError(f"k must lie in [1, {len(scores)}], the number of scores; got {k}")
    values, indices = scores.sort(stable=True)
    return indices[:k], values[:k]
