"""The validation gradient v, kept for several meta stages, or averaged over them."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

from core.lazy import torch
from core.user_model.last_model import LastModel

if TYPE_CHECKING:
    from torch import Tensor, nn


class ValidationGradient:
    """v, the gradient of the validation loss at θ′, refreshed at every k-th meta stage.

    Between, the last v is used as it is: the virtual step and the validation pass are left out, the
    hypergradient is `−η ∂/∂λ ⟨∇θ L(θ; λ), v⟩` with an older v. Handed to `learn_interpolation` or
    `metamixup_step`, which count the stages. Of a second model it is computed anew.

    A v of one validation batch is mostly noise. With `average_over` = n the one that is used is the
    mean of the first n computed, and from then on a moving average in which the newest weighs 1/n;
    earlier ones were taken at earlier parameters.

    Attributes:
        refresh_every: k ≥ 1; 1 is the exact hypergradient.
        average_over: n ≥ 1; 1 takes each v as it is.

    Examples:
        >>> import core
        >>> policy = core.Learned(validation_gradient=core.ValidationGradient(4))
        >>> model, optimizer, batch, val_batch = core.testing.toy_problem()
        >>> policy(model, optimizer, batch, val_batch).hypergradient.shape
        torch.Size([8])
    """

    def __init__(self, refresh_every: int = 1, average_over: int = 1):
        for name, value in (("refresh_every", refresh_every), ("average_over", average_over)):
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        self.refresh_every = refresh_every
        self.average_over = average_over
        self._age = 0
        self._averaged = 0
        self._v: list[Tensor] | None = None
        self._names: tuple[str, ...] = ()
        self._meta_loss: Tensor | None = None
        self._model = LastModel()

    def follow(self, module: nn.Module) -> bool:
        """Forgets v if it is that of another model; returns whether it is.

        To be called before each stage. Who has just loaded a state takes the next model for its.

        Args:
            module: the plain module.
        """
        left = self._model.is_left(module)
        if left:
            self.load_state_dict(None)
            self._model.is_left(module)
        return left

    def due(self) -> bool:
        """Returns whether the next meta stage computes v anew."""
        return self._v is None or self._age >= self.refresh_every

    def last(
        self, names: Sequence[str], device: torch.device | None = None
    ) -> tuple[Tensor, list[Tensor]] | None:
        """Returns the validation loss (scalar) and v of each parameter as last computed.

        None if due, or if v was computed for other parameters, as where a layer was frozen or
        thawed since.

        Args:
            names: of the parameters that the virtual step moves, in its order.
            device: where they lie, if v may have been loaded to another one.
        """
        if self.due() or self._v is None or self._meta_loss is None:
            return None
        if self._names != tuple(names):
            return None
        return self._meta_loss.to(device=device), [g.to(device=device) for g in self._v]

    def averaged(self, fresh: Sequence[Tensor], names: Sequence[str]) -> list[Tensor]:
        """Returns the v to be used, from one that was just computed.

        Args:
            fresh: v of each parameter.
            names: as in `last`.
        """
        n = min(self._averaged + 1, self.average_over)
        if n == 1 or self._v is None or self._names != tuple(names):
            return list(fresh)
        kept = [g.to(new.device) for g, new in zip(self._v, fresh, strict=True)]
        return [old + (new - old) / n for old, new in zip(kept, fresh, strict=True)]

    def count(self, fresh: tuple[Tensor, list[Tensor]] | None, names: Sequence[str]) -> None:
        """Counts one meta stage as done, with what it computed anew, or None where it used `last`.

        Args:
            fresh: validation loss (scalar) and v of each parameter, as `averaged` gave it.
            names: as in `last`.

        Raises:
            ValueError: nothing new was computed though it was due.
        """
        if fresh is None and self.due() and self.refresh_every > 1:
            raise ValueError(
                'engine "unroll" gives no validation gradient to keep for '
                f'refresh_every={self.refresh_every} stages; use engine="auto"'
            )
        if fresh is not None:
            self._meta_loss, self._v = fresh
            self._averaged = self._averaged + 1 if self._names == tuple(names) else 1
            self._names = tuple(names)
            self._age = 0
        self._age += 1

    def state_dict(self) -> dict[str, Any]:
        """Returns all that a resumed training needs."""
        names = list(self._names)
        return {
            "age": self._age,
            "averaged": self._averaged,
            "v": self._v,
            "names": names,
            "meta_loss": self._meta_loss,
        }

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Loads what `state_dict` gave; that of a training that kept no v begins without one.

        Args:
            state: None, or empty, of such a training.
        """
        if not state:
            state = ValidationGradient().state_dict()
        self._age, self._meta_loss = int(state["age"]), state["meta_loss"]
        self._averaged = int(state.get("averaged", 0))  # checkpoints of earlier versions have none
        v, self._names, self._model = state["v"], tuple(state["names"]), LastModel()
        self._v = None if v is None else [torch.as_tensor(g) for g in v]
