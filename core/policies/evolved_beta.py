"""`LearnedBeta` by evolution: two copies of the training live on beside it and tell where to go."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from core.meta.objectives import OBJECTIVES
from core.meta.stage import Slope
from core.mixing.interpolation import Interpolation
from core.mixing.kinds import Mixing
from core.policies.learned_beta import LearnedBeta
from core.policies.limits import Path, check_evolution
from core.policies.particle import Particle
from core.policies.protocol import StepInput
from core.policies.scaling import MeanSquare
from core.policies.stored_state import check_stored
from core.random_streams import stream_device
from core.user_model.precision import wide_dtype
from core.user_model.ranks import Ranks
from core.user_model.wrapped_models import ranks_of

_WIDTH = 0.05
"""Of the fall at the stop, as a part of the way from the beginning of learning to the end."""

_UNITS: dict[Path, tuple[float, float]] = {"ends": (1.0, 1.0), "stop": (1.0, 0.1)}
"""What `sigma` and `reach` are multiplied by, for each of the two numbers of a path."""

_SIGNS = (1.0, -1.0)
"""Of the perturbation of each particle: an antithetic pair."""


@dataclass
class EvolvedBeta(LearnedBeta):
    """α of a schedule, learned by persistent evolution strategies (PES) while training.

    With u the part of the way from the beginning of learning to the end, α is one of

        "ends"   log α(u) = (1 − u) a + u b,          a = b = log α at first
        "stop"   α(u) = e^a sigmoid((b − u) / 0.05),  b = 1 at first

    and (a, b) is learned by Algorithm 2 of Vicol, Metz and Sohl-Dickstein 2021 ("Unbiased gradient
    estimation in unrolled computation graphs with persistent evolution strategies"). Two particles,
    copies of network and optimizer, split off when learning begins and are trained beside the real
    training, on its batches, with its noise, at (a, b) + ε and (a, b) − ε. ε ~ N(0, σ²) is drawn
    anew at every k-th step, and ξ is the sum of all ε so far. With Δ the growth, in these k steps,
    of the one's validation loss minus the other's,

        ĝ = ξ Δ / (2σ²)

    whose sum over all stages is an estimate, without the bias of a short horizon, of the derivative
    of the *last* validation loss: the Δ telescope. Each number moves by −ĝ over the root of its
    mean square, as in `CarriedBeta`. A particle that diverges is the end of both: they are copied
    anew from the real training, with ξ = 0.

    It needs no derivative, and works for any optimizer that can be copied, without gradient
    clipping and hooks, and for losses of logits and labels alone. Each call is taken for a step of
    the optimizer, so gradients must not be accumulated over several. A step costs three, and
    network and optimizer are held in memory three times. ξ grows like the root of the number of
    stages, and the variance of ĝ like that number.

    When to stop is learned so, and not by the derivative of a step: that is 0 at all steps but
    those near the stop, and there it asks for less mixing at once.

    Attributes:
        begin: as in `LearnedBeta`; at 0 the horizon is the whole training.
        every: k, the steps of an unroll.
        average_over: the last steps of an unroll, after which the particles are judged, each time
            by a validation batch, in evaluation mode; `val_batch` is read in these alone.
        reach: how far a number moves in all if every stage says the same; of b of "stop" a tenth.
        sigma: σ > 0, of log α; of b of "stop" a tenth.
        path: "ends" or "stop".

    Examples:
        >>> import core
        >>> model, optimizer, batch, val_batch = core.testing.toy_problem()

        >>> policy = core.policies.EvolvedBeta(begin=0.0, every=2, sigma=0.3, path="ends")
        >>> policy.at(0, 100)
        >>> policy(model, optimizer, batch, val_batch).lam.shape
        torch.Size([8])
    """

    sigma: float = 0.3
    path: Path = "ends"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_evolution(self.sigma, self.path, self.last_blocks)
        self._place = self._first_place()
        self._scales = MeanSquare(), MeanSquare()
        self._particles: list[Particle] = []
        self._saved: list[dict[str, Any]] = []  # of particles, until the network is seen
        self._noise = [0.0, 0.0]  # ε
        self._travelled = [0.0, 0.0]  # ξ
        self._losses = [0.0, 0.0]  # of the particles, summed over this unroll's judgements
        self._judged = 0
        self._ahead = 0.0  # of the first particle's loss over the second's, an unroll ago

    def metrics(self) -> dict[str, float]:
        """Returns `alpha` as it is now, and both numbers of the path: `alpha_start`, a as an α, and
        `alpha_end` or `stop`."""
        first, second = self._place
        end = {"stop": second} if self.path == "stop" else {"alpha_end": math.exp(second)}
        return super().metrics() | {"alpha_start": math.exp(first)} | end

    def state_dict(self) -> dict[str, Any]:
        """Returns all that a resumed training needs, the particles included."""
        particles = [particle.state_dict() for particle in self._particles]
        return {
            **super().state_dict(),
            "path": self.path,
            "place": list(self._place),
            "scales": [scale.state_dict() for scale in self._scales],
            "particles": particles or self._saved,
            "noise": list(self._noise),
            "travelled": list(self._travelled),
            "losses": list(self._losses),
            "judged": self._judged,
            "ahead": self._ahead,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_stored(self, state, EvolvedBeta, optional=["path", "signals"])
        if (there := state.get("path", self.path)) != self.path:
            raise ValueError(
                f'the stored state is that of a path "{there}", and this EvolvedBeta has path '
                f'"{self.path}"; load it into one of that path, or begin without'
            )
        super().load_state_dict(state)
        for scale, saved in zip(self._scales, state["scales"], strict=True):
            scale.load_state_dict(saved)
        self._place = self._first_place() if self._begun is None else list(state["place"])
        self._noise = list(state["noise"])
        self._travelled, self._losses = list(state["travelled"]), list(state["losses"])
        self._judged, self._ahead = state["judged"], state["ahead"]
        self._particles, self._saved = [], list(state["particles"])

    def _first_place(self) -> list[float]:
        return [self._log_alpha, 1.0 if self.path == "stop" else self._log_alpha]

    def _now(self) -> float:
        return self._at(self._place)

    def _at(self, place: list[float]) -> float:
        """Returns log α of the present step on the path with these two numbers."""
        if self._begun is None:
            return self._log_alpha
        u = min(1.0, (self._step - self._begun) / (self._steps - self._begun))
        first, second = place
        if self.path == "ends":
            return self._within_bounds((1 - u) * first + u * second)
        return self._within_bounds(first - _softplus((u - second) / _WIDTH))

    def _reads(self, since: int) -> bool:
        return since % self.every >= self.every - self.average_over

    def _learn(
        self, step: StepInput, noise: Tensor, partner: Tensor, mixing: Mixing
    ) -> Slope | None:
        ranks = ranks_of(step.model)
        if self._judged:
            self._move(step, ranks)
        units = self.sigma * torch.tensor(_UNITS[self.path], dtype=torch.float64, device="cpu")
        source, device = stream_device(step.generator), step.batch[0].device
        drawn = torch.randn(2, generator=step.generator, device=source)
        self._noise = (ranks.first(drawn.to(device)).cpu().double() * units).tolist()
        self._losses, self._judged = [0.0, 0.0], 0
        return None

    def _move(self, step: StepInput, ranks: Ranks) -> None:
        """Moves the path by one stage of PES, and starts anew where a particle has diverged."""
        device = step.batch[0].device
        losses = torch.tensor(self._losses, dtype=wide_dtype(device), device=device)
        first, second = (float(loss) / self._judged for loss in ranks.mean([losses])[0])
        growth = first - second - self._ahead
        if not math.isfinite(growth):
            self._forget()
            return
        self._ahead = first - second
        self._travelled = [a + b for a, b in zip(self._travelled, self._noise, strict=True)]
        turn, signals = self._turn(step), []
        for i, (scale, unit) in enumerate(zip(self._scales, _UNITS[self.path], strict=True)):
            estimate = self._travelled[i] / unit * growth / (2 * self.sigma**2)
            signals.append(turn * scale.scaled(estimate))
            self._place[i] -= self._pace() * unit * signals[i]
        self._signals.append(sum(signals) / len(signals))
        self._place[0] = self._within_bounds(self._place[0])
        end = self._place[1]
        self._place[1] = (
            self._within_bounds(end) if self.path == "ends" else max(0.0, min(1.0, end))
        )

    def _forget(self) -> None:
        super()._forget()
        self._particles, self._saved = [], []
        self._ahead, self._travelled = 0.0, [0.0, 0.0]
        self._losses, self._judged = [0.0, 0.0], 0

    def _copies(self, step: StepInput) -> list[Particle]:
        """Returns the particles; where there are none, those of a checkpoint or new ones."""
        if not self._particles:
            self._particles = [Particle(step.model, step.optimizer) for _ in _SIGNS]
            for particle, saved in zip(self._particles, self._saved, strict=False):
                particle.load_state_dict(saved)
            self._saved = []
        return self._particles

    def _followed(self, step: StepInput, given: Interpolation, noise: Tensor) -> Interpolation:
        assert self._begun is not None
        judged = self._reads(self._step - self._begun)
        samples, x, total = given.extra_samples, step.batch[0], None
        for i, (particle, sign) in enumerate(zip(self._copies(step), _SIGNS, strict=True)):
            place = [p + sign * e for p, e in zip(self._place, self._noise, strict=True)]
            lam, _ = self._lam(noise, self._at(place), x, step.pairing)
            particle.step(step, replace(given, lam=lam))
            samples += len(x)
            if judged and step.val_batch is not None:
                loss = particle.judged(step.val_batch, OBJECTIVES[self.objective] or step.loss)
                self._losses[i] += float(loss)
                total = loss if total is None else total + loss
                samples += len(step.val_batch[0])
        self._judged += judged
        meta_loss = None if total is None else total / len(_SIGNS)
        return replace(given, extra_samples=samples, meta_loss=meta_loss)


def _softplus(z: float) -> float:
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))
