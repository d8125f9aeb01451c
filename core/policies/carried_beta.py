"""`LearnedBeta` by a derivative that looks back over many steps instead of one."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from core.meta.carried import CarriedTangent, check_sgd
from core.meta.gradient import meta_problem, moved_parameters
from core.meta.objectives import OBJECTIVES
from core.meta.problem import MetaProblem
from core.meta.stage import Slope
from core.mixing.batch import Batch
from core.mixing.interpolation import Interpolation
from core.mixing.kinds import Mixing
from core.policies.learned_beta import LearnedBeta
from core.policies.limits import check_carry
from core.policies.protocol import StepInput
from core.policies.scaling import MeanSquare
from core.policies.stored_state import check_stored
from core.user_model.wrapped_models import unwrap


@dataclass
class CarriedBeta(LearnedBeta):
    """α learned by the derivative of what the steps since learning began have come to (RTHO).

    From the step at which learning begins the derivative of all weights with respect to log α is
    carried along, see `CarriedTangent`: each step costs about 3.3. A meta stage takes the
    validation loss at the weights as they are, and moves log α by the derivative over the root of
    its mean square, as `LearnedBeta` moves it by signal over noise; the first stage, which has
    nothing carried yet, is one of `LearnedBeta`. Derivatives that overflow are given up, and what
    is carried begins anew; so it does where a part of the network is frozen meanwhile. The real
    step must be one of SGD, without gradient clipping and without a loss scale; another optimizer
    or a loss scale is refused at the first step. Each call is taken for a step of the optimizer, so
    gradients must not be accumulated over several.

    Attributes:
        carry: in (0, 1]; a step t steps ago counts carry^t, so that the horizon is about
            1/(1 − carry) steps. At 1 it is all steps since learning began.

    Examples:
        >>> import core
        >>> model, optimizer, batch, val_batch = core.testing.toy_problem()

        >>> policy = core.policies.CarriedBeta(carry=0.9, begin=0.5)
        >>> policy.at(7, 10)  # it learns in the second half
        >>> policy(model, optimizer, batch, val_batch).lam.shape
        torch.Size([8])
    """

    carry: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        check_carry(self.carry)
        self._tangent = CarriedTangent(self.carry)
        self._scale = MeanSquare()

    def interpolate(self, step: StepInput) -> Interpolation:
        """Does as `LearnedBeta`.

        Raises:
            ValueError: the real step is none that tangents can follow; as `LearnedBeta`.
        """
        check_sgd(step.optimizer)
        return super().interpolate(step)

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "tangent": self._tangent.state_dict(),
            **self._scale.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_stored(self, state, CarriedBeta, optional=["signals"])
        super().load_state_dict(state)
        self._tangent.load_state_dict(state["tangent"])
        self._scale.load_state_dict(state)

    def _forget(self) -> None:
        super()._forget()
        self._tangent.forget()

    def _estimate(
        self, step: StepInput, noise: Tensor, partner: Tensor, mixing: Mixing
    ) -> tuple[Slope, float]:
        names = moved_parameters(unwrap(step.model), self.last_blocks)
        self._tangent.keep(names, step.batch[0].device)
        if self._tangent.empty:
            return super()._estimate(step, noise, partner, mixing)
        lam, along = self._lam(noise, self._log_alpha, step.batch[0], step.pairing)
        val_batch = step.validation()
        with self._problem(step, val_batch, lam, partner, mixing) as problem:
            averaged = partial(self._validation.averaged, names=names)
            derivative, validation = self._tangent.derivative(replace(problem, averaged=averaged))
        if math.isfinite(derivative):
            self._validation.count(validation, names)
        slope = Slope(along, along, validation[0], len(val_batch[0]))
        return slope, self._scale.scaled(derivative)

    def _followed(self, step: StepInput, given: Interpolation, noise: Tensor) -> Interpolation:
        _, along = self._lam(noise, self._log_alpha, step.batch[0], step.pairing)
        with self._problem(step, step.batch, given.lam, given.partner, given.mixing) as problem:
            self._tangent.follow(problem, along, step.optimizer)
        samples = given.extra_samples + len(step.batch[0])
        return replace(given, extra_samples=samples, hypergradient=None)

    def _problem(
        self, step: StepInput, val_batch: Batch, lam: Tensor, partner: Tensor, mixing: Mixing
    ) -> AbstractContextManager[MetaProblem]:
        return meta_problem(
            step.model,
            step.batch,
            val_batch,
            lam,
            partner,
            optimizer=step.optimizer,
            loss=step.loss,
            mixing=mixing,
            last_blocks=self.last_blocks,
            validation_loss=OBJECTIVES[self.objective],
        )
