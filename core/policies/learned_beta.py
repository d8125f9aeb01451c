"""How much to mix, learned while training: λ ~ Beta(α, α), and log α moved by hypergradient."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from core.meta.gradient import Engine
from core.meta.objectives import OBJECTIVES, Objective
from core.meta.reading import Reading
from core.meta.stage import MetaOptions, Slope
from core.meta.validation_gradient import ValidationGradient
from core.mixing.batch import check_batch
from core.mixing.interpolation import Interpolation
from core.mixing.kinds import INPUT, Mixing, takes_tokens
from core.mixing.pairing import Pairing
from core.policies.limits import Begin, check_learned_beta
from core.policies.protocol import Policy, StepInput
from core.policies.scaling import signal_over_noise
from core.policies.stored_state import check_stored
from core.policies.symmetric_beta import draw_noise, symmetric_beta
from core.random_streams import stream_device, stream_kept
from core.user_model.untraced import untraced
from core.user_model.wrapped_models import ranks_of, unwrap

TRUSTED_REST = 0.25
"""With `begin="auto"`: of the way that learning rates make for the weights, the part ahead below
which the one-step derivative is trusted."""


@dataclass
class LearnedBeta(Policy):
    """λ ~ Beta(α, α), with log α learned by hypergradient in the last part of the training.

    A meta stage takes the derivative of the validation loss after a virtual step with respect to
    log α: each sample's hypergradient d(meta loss)/dλ_i (Eq. 9) times dλ_i/d(log α) of its draw,
    with the noise of the draw held fixed (see `symmetric_beta`), summed over the joint batch of all
    ranks. The sum over the root of the summed squares is its signal s in units of its noise; log α
    moves by −s/√(1 + s²) times a step with which all stages together could bring it `reach` far.
    The real batch is mixed at the moved α, with the same noise.

    **Why late.** One step ahead, less mixing looks better at every time of a training, while over
    the whole of it more mixing wins: the derivative sees what mixing costs now, not what it brings
    later. The bias goes where there is no later. `begin="auto"` therefore starts to learn once the
    present rate times the steps ahead is a quarter of the way, the rates of all steps summed up: at
    59 % of a cosine schedule, at the first drop by 10 in the middle of a training, at 75 % of a
    constant rate. It is read off the optimizer; of a rate that is to rise again, as with warm
    restarts, it cannot know, so give `begin` a number there. α then anneals by itself, and mixing
    ends where α has gone to 0.

    **Does it pay?** docs/contest.md has ten seeds and more: on Fashion-MNIST it is told apart
    neither from the best constant α nor from mixing with α = 1 that stops after five sixths; on
    digits the best constant, and on CIFAR-10 that stop, make fewer errors.

    The second step rehearses one that learns, and forgets it, so that a model, a loss and an engine
    that do not go together are refused there and not after half of the training. `extra_samples`
    does not count it.

    How far the training is must be said, by `at(step, steps)`: once before the loop, or before each
    step as `core.training` does.

    The placebo turns the sign of each derivative at random. This is the matched control: as many
    stages at as many images, moves of the same sizes at the same times, all but their direction.
    (Hypergradients permuted within the batch, as elsewhere, do nothing to a λ that all samples
    share.)

    Belongs to one training. Under DistributedDataParallel all ranks have the same α.

    Attributes:
        alpha: α before anything is learned.
        begin: when learning begins, as a fraction of the training's steps, in [0, 1], or "auto". At
            1 nothing is ever learned, and a step costs what one of plain MixUp costs.
        every: k ≥ 1: from then on the meta stage acts at every k-th step. `val_batch` is read in
            these alone.
        reach: how far log α moves in all if every stage is sure, and of the same sign.
        bounds: of α.
        average_over: validation batches over which the validation gradient is averaged; see
            `ValidationGradient`.
        objective: what the validation batch is judged by; see `core.meta.objectives`. "loss" is
            that of the training, as other learned policies have it.
        per_sample: a λ for each sample; else one for the batch, whose derivative is noisier.
        stratified: the λ of a batch are spread over their distribution; see `draw_noise`.
        placebo: the control.
        inner_step: see `Reading`.
        engine, mixing, last_blocks: as in `Learned`; engine "unroll" needs average_over=1.

    Examples:
        >>> import core
        >>> policy = core.LearnedBeta()
        >>> model, optimizer, batch, val_batch = core.testing.toy_problem()
        >>> policy.at(0, steps=100)
        >>> interpolation = policy(model, optimizer, batch, val_batch)
        >>> sorted(policy.metrics())
        ['alpha']
    """

    alpha: float = 1.0
    begin: Begin = "auto"
    every: int = 8
    reach: float = 6.0
    bounds: tuple[float, float] = (0.01, 10.0)
    average_over: int = 8
    objective: Objective = "loss"
    per_sample: bool = True
    stratified: bool = False
    placebo: bool = False
    inner_step: Literal["gradient_descent", "optimizer"] = "gradient_descent"
    engine: Engine = "auto"
    mixing: Mixing = INPUT
    last_blocks: int | None = None
    needs_meta_validation = True

    def __post_init__(self) -> None:
        check_learned_beta(self)
        if self.engine == "unroll" and self.average_over > 1:  # or it would be said late
            raise ValueError(
                f"average_over={self.average_over} keeps a validation gradient, and engine "
                '"unroll" has none; choose engine="auto", or average_over=1'
            )
        self._log_alpha = math.log(self.alpha)
        self._step, self._steps = 0, 0
        self._travel = 0.0  # the rates of the steps before learning began, summed up
        self._begun: int | None = None
        self._signals: list[float] = []
        self._unrehearsed = True
        self._validation = ValidationGradient(average_over=self.average_over)

    @property
    def present_alpha(self) -> float:
        """α as it is now."""
        return math.exp(self._now())

    def at(self, step: int, steps: int) -> None:
        if not 0 <= step < steps:
            raise ValueError(f"step must lie in [0, {steps}), the training's steps; got {step}")
        if self._begun is not None and step < self._begun:
            raise ValueError(
                f"step {step} lies before step {self._begun}, at which α began to be learned: a "
                f"{type(self).__name__} belongs to one training; make a new one for the next, or "
                "load the state that it had at that step"
            )
        if step == 0:
            self._travel = 0.0
        self._step, self._steps = step, steps

    @untraced
    def interpolate(self, step: StepInput) -> Interpolation:
        """Draws λ at the present α, and learns α first at steps that learn.

        `change` of what it gives is λ minus λ at the α of the beginning, so all that learning has
        done to it. At every step the stream advances by `draw_noise` of each λ, the pairing and
        what the mixing draws, in this order; the placebo's sign comes after them at steps that
        learn.

        Raises:
            ValueError: nobody said how long the training is; `val_batch` is None at a step that
                learns; as `hypergradient`.
        """
        batch, pairing = step.batch, step.pairing
        check_batch(batch, "training", tokens=takes_tokens(self.mixing))
        if not self._steps:
            raise ValueError(
                "LearnedBeta must know how long the training is; say it before the loop by "
                "policy.at(0, steps=epochs * len(loader))"
            )
        if self._validation.follow(unwrap(step.model)):
            self._forget()
        x, rate = batch[0], _rate(step.optimizer)
        begun = self._begun if self._begun is not None else self._begins(rate)
        if begun is None and self._unrehearsed and self._travel > 0 and self.begin != 1:
            self._rehearse(step)
        since = None if begun is None else self._step - begun
        if since is not None and self._reads(since):
            step.validation()
        drawn = len(x) if self.per_sample else 1
        noise = draw_noise(drawn, step.generator, stratified=self.stratified)
        start, _ = self._lam(noise, math.log(self.alpha), x, pairing)
        partner = pairing.partners(len(x), generator=step.generator, device=x.device)
        mixing = self.mixing.draw(x, step.generator)
        slope = None
        if since is not None and since % self.every == 0:
            slope = self._learn(step, noise, partner, mixing)
        self._begun = begun
        lam, _ = self._lam(noise, self._now(), x, pairing)
        given = Interpolation(
            lam=lam,
            partner=partner,
            lam_init=start,
            change=None if begun is None else lam - start,
            hypergradient=None if slope is None else slope.hypergradient,
            meta_loss=None if slope is None else slope.meta_loss,
            extra_samples=0 if slope is None else slope.samples,
            mixing=mixing,
        )
        if begun is not None:
            given = self._followed(step, given, noise)
        self._travel += rate
        self._step += 1
        return given

    def metrics(self) -> dict[str, float]:
        """Returns `alpha` as it is now, and `alpha_signal`, the mean signal over noise of the
        stages since the last call, negative where they ask for more mixing."""
        signals, self._signals = self._signals, []
        said = {"alpha": self.present_alpha}
        return said | ({"alpha_signal": sum(signals) / len(signals)} if signals else {})

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self._step,
            "steps": self._steps,
            "travel": self._travel,
            "begun": self._begun,
            "log_alpha": self._log_alpha,
            "signals": list(self._signals),
            "validation_gradient": self._validation.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_stored(self, state, LearnedBeta, optional=["signals"])
        self._step, self._steps, self._begun = state["step"], state["steps"], state["begun"]
        self._travel, self._signals = state["travel"], list(state.get("signals", []))
        # Until learning begins α is this object's, which may have been perturbed since.
        learned = math.log(self.alpha) if self._begun is None else state["log_alpha"]
        self._log_alpha = self._within_bounds(learned)
        self._validation.load_state_dict(state["validation_gradient"])

    def _forget(self) -> None:
        """Forgets what is known of a model by which another one took over, but not α."""
        self._unrehearsed = True

    def _rehearse(self, step: StepInput) -> None:
        """Takes this step as one that learns, and forgets it: what learning would refuse after most
        of a training is refused at its second step, when lazy layers have their shapes."""
        learner = copy.deepcopy(self)
        learner.begin, learner._unrehearsed = 0.0, False
        if step.val_batch is None:  # it is read later, and of these labels only the loss is known
            step, learner.objective = step._replace(val_batch=step.batch), "loss"
        with stream_kept(step.generator):
            learner.interpolate(step)
        self._unrehearsed = False

    def _begins(self, rate: float) -> int | None:
        """Returns this step if learning begins with it."""
        if self.begin == "auto":
            ahead = rate * (self._steps - self._step)
            # A warm-up that starts at the rate 0 has nothing behind it, and is no end.
            late = self._travel > 0 and ahead <= TRUSTED_REST * (self._travel + ahead)
        else:
            late = self._step >= self.begin * self._steps
        # Who trains on after the end that was told has no steps left to learn in.
        return self._step if late and self._step < self._steps else None

    def _now(self) -> float:
        """Returns log α of the present step."""
        return self._log_alpha

    def _reads(self, since: int) -> bool:
        """Says whether so many steps after the beginning of learning `val_batch` is read."""
        return since % self.every == 0

    def _learn(
        self, step: StepInput, noise: Tensor, partner: Tensor, mixing: Mixing
    ) -> Slope | None:
        """Moves log α by one meta stage; returns what it found for each sample, if it did."""
        slope, signal = self._estimate(step, noise, partner, mixing)
        signal *= self._turn(step)
        self._signals.append(signal)
        moved = self._log_alpha - self._pace() * signal / math.hypot(1, signal)
        self._log_alpha = self._within_bounds(moved)
        return slope

    def _turn(self, step: StepInput) -> int:
        """Returns 1, and of the placebo -1 as often, the same on all ranks."""
        if not self.placebo:
            return 1
        source, ranks = stream_device(step.generator), ranks_of(step.model)
        coin = torch.randint(2, (), generator=step.generator, device=source)
        return 1 - 2 * int(ranks.first(coin.to(step.batch[0].device)))

    def _pace(self) -> float:
        """Returns how far a stage that is sure moves log α."""
        begun = self._step if self._begun is None else self._begun
        return self.reach / -(-(self._steps - begun) // self.every)

    def _within_bounds(self, log_alpha: float) -> float:
        low, high = map(math.log, self.bounds)
        return max(low, min(high, log_alpha))

    def _estimate(
        self, step: StepInput, noise: Tensor, partner: Tensor, mixing: Mixing
    ) -> tuple[Slope, float]:
        """Returns what a meta stage found, and the derivative by log α in units of its noise."""
        x = step.batch[0]
        lam, along = self._lam(noise, self._log_alpha, x, step.pairing)
        options = MetaOptions(
            Reading(inner_step=self.inner_step),
            self.engine,
            mixing,
            self.last_blocks,
            self._validation,
            validation_loss=OBJECTIVES[self.objective],
        )
        slope = step.slope(options, lam, partner)
        return slope, signal_over_noise(slope.moving * along, ranks_of(step.model))

    def _followed(self, step: StepInput, given: Interpolation, noise: Tensor) -> Interpolation:
        """Returns what is given at a step after learning began; whoever looks further than a step
        follows it first.

        Args:
            step: what the policy saw.
            given: its answer.
            noise: what λ was made of; see `_lam`.
        """
        return given

    def _lam(
        self, noise: Tensor, log_alpha: float, x: Tensor, pairing: Pairing
    ) -> tuple[Tensor, Tensor]:
        """Returns λ and dλ/d(log α) of each sample, [B]."""
        lam, along = symmetric_beta(noise, log_alpha)
        folded = pairing.fold(lam)
        along = torch.where(folded == lam, along, -along)
        dtype = torch.promote_types(x.dtype, torch.float32)
        return tuple(  # type: ignore[return-value]
            t.to(dtype).to(x.device).expand(len(x)) for t in (folded, along)
        )


def _rate(optimizer: torch.optim.Optimizer) -> float:
    """Returns the largest learning rate of its parameter groups; 1 where they have none."""
    rates = (group.get("lr") for group in optimizer.param_groups)
    return max(1.0 if rate is None else float(rate) for rate in rates)
