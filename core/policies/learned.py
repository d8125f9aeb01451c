"""MetaMixUp as a policy: λ learned anew in each batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core.meta.gradient import Engine
from core.meta.reading import DEFAULT, Reading
from core.meta.validation_gradient import ValidationGradient
from core.metamixup import learn_interpolation
from core.mixing.interpolation import Interpolation
from core.mixing.kinds import INPUT, Mixing
from core.policies.protocol import Policy, StepInput
from core.policies.stored_state import check_stored


@dataclass(frozen=True)
class Learned(Policy):
    """MetaMixUp: λ learned by hypergradient on the meta-validation batch (Algorithm 1).

    Attributes:
        reading: what the paper leaves open; see `Reading`.
        engine: see `hypergradient`.
        placebo: the control. Hypergradients are permuted within the batch before they move λ, so
            the distribution of λ moves as in learning but no sample gets the λ meant for it.
        mixing: where the pairs are blended; see `learn_interpolation`.
        last_blocks: the hypergradient goes through the last so many blocks alone; None: all.
        validation_gradient: keeps the validation gradient for several steps; its state is the
            policy's, and it belongs to one training.

    Examples:
        >>> import core
        >>> model, optimizer, batch, val_batch = core.testing.toy_problem()
        >>> core.Learned()(model, optimizer, batch, val_batch).change.shape
        torch.Size([8])
    """

    reading: Reading = DEFAULT
    engine: Engine = "auto"
    placebo: bool = False
    mixing: Mixing = INPUT
    last_blocks: int | None = None
    validation_gradient: ValidationGradient | None = None
    needs_meta_validation = True

    def interpolate(self, step: StepInput) -> Interpolation:
        """Learns λ on the batch; see `learn_interpolation`."""
        return learn_interpolation(
            step.model,
            step.batch,
            step.validation(),
            optimizer=step.optimizer,
            reading=self.reading,
            engine=self.engine,
            pairing=step.pairing,
            permute=self.placebo,
            mixing=self.mixing,
            last_blocks=self.last_blocks,
            validation_gradient=self.validation_gradient,
            loss=step.loss,
            generator=step.generator,
        )

    def state_dict(self) -> dict[str, Any]:
        """Returns that of the kept validation gradient."""
        return {} if self.validation_gradient is None else self.validation_gradient.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:  # one that kept no validation gradient gives nothing
            own = ValidationGradient().state_dict()
            check_stored(self, state, Learned, own, optional=["averaged"])
        if self.validation_gradient is not None:
            self.validation_gradient.load_state_dict(state)
