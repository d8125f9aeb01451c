"""This module holds a training beside the real one: a copy of network and optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from core.meta.engines.once import other_parameters, refuse_other_parameters
from core.meta.inner_step import refuse_step_hooks
from core.mixing.batch import Batch, Loss, copied
from core.mixing.interpolation import Interpolation
from core.mixing.losses import unmixed_loss
from core.policies.protocol import StepInput
from core.user_model.logits import with_logits
from core.user_model.precision import loss_scale, outside_autocast
from core.user_model.untouched import aside, copyable, modes_kept
from core.user_model.wrapped_models import logits_of, ranks_of, unwrap

_PLAIN = (bool, int, float, str)
"""What of a layer a loop may set while it trains, beside its tensors."""

_NO_PENALTY = (
    "a particle has weights of its own and would not feel that penalty: use weight_decay of the "
    "optimizer in its place, or core.LearnedBeta"
)


class Particle:
    """A particle takes the same steps as the training that it was copied from, but for λ.

    It has weights, buffers and an optimizer of its own. Its passes draw dropout as the real step
    will, and leave every random stream where it stands.

    Args:
        model, optimizer: to be copied, as they are handed to a policy.

    Raises:
        ValueError: they cannot be copied, or the optimizer is LBFGS or has hooks around its step.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ValueError("a particle cannot follow LBFGS; use core.LearnedBeta, or choose SGD")
        refuse_step_hooks(optimizer, "use core.LearnedBeta")
        try:
            # Together, so that the copied optimizer holds the copied parameters.
            with copyable(unwrap(model)):
                self._module, self._optimizer = deepcopy((unwrap(model), optimizer))
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"the model or the optimizer cannot be copied: {error}; use core.LearnedBeta"
            ) from error
        self._model = with_logits(self._module, logits_of(model))
        for p in self._module.parameters():
            p.grad = None

    def step(self, step: StepInput, given: Interpolation) -> None:
        """Takes the step that the real training is about to take, at its rate, with λ as given.

        Under DistributedDataParallel the gradient is averaged over the ranks. Gradients that are
        not finite move nothing.

        Raises:
            ValueError: the loss reads a parameter of the real model, or one that the optimizer
                holds and the model does not; or the optimizer was given parameters since the copy
                was made.
        """
        self._follow(step)
        scale = loss_scale()
        moved = [p for p in self._module.parameters() if p.requires_grad]
        with torch.enable_grad(), aside(self._module):
            loss = given.objective(self._model, copied(step.batch), step.loss) * scale
            theta = dict(self._module.named_parameters())
            real = dict(unwrap(step.model).named_parameters())
            refuse_other_parameters(loss, theta, real, self._others(step), advice=_NO_PENALTY)
            with outside_autocast(loss.device.type):
                gradient = torch.autograd.grad(loss, moved, allow_unused=True)
        # A layer may be used on one rank alone: all exchange the same, and whether it was used.
        used = torch.tensor([g is not None for g in gradient], device=loss.device).to(loss.dtype)
        filled = [
            torch.zeros_like(p) if g is None else g / scale
            for p, g in zip(moved, gradient, strict=True)
        ]
        used, *means = ranks_of(step.model).mean([used, *filled])
        if not all(bool(g.isfinite().all()) for g in means):
            return
        for p, mean, somewhere in zip(moved, means, used.tolist(), strict=True):
            p.grad = mean if somewhere else None
        self._optimizer.step()
        for p in moved:
            p.grad = None

    def _follow(self, step: StepInput) -> None:
        """Takes over the real training's rates, frozen and thawed layers, modes and settings that a
        loop may change, such as the rate of a dropout."""
        mine, real = self._optimizer.param_groups, step.optimizer.param_groups
        if [len(group["params"]) for group in mine] != [len(group["params"]) for group in real]:
            raise ValueError(
                "the optimizer was given parameters after learning began, which a particle cannot "
                "follow; give it all at first, frozen (requires_grad=False) where they wait"
            )
        for group, theirs in zip(mine, real, strict=True):
            group.update({name: value for name, value in theirs.items() if name != "params"})
        module = unwrap(step.model)
        for p, its in zip(self._module.parameters(), module.parameters(), strict=True):
            p.requires_grad_(its.requires_grad)
        for layer, its_layer in zip(self._module.modules(), module.modules(), strict=True):
            plain = {k: v for k, v in vars(its_layer).items() if isinstance(v, _PLAIN)}
            vars(layer).update(plain)

    def _others(self, step: StepInput) -> list[Tensor]:
        """Returns what either optimizer moves beside its model."""
        mine = other_parameters(self._module, self._optimizer)
        return mine + other_parameters(step.model, step.optimizer)

    @torch.no_grad()
    def judged(self, val_batch: Batch, loss: Loss) -> Tensor:
        """Returns the loss of a validation batch in evaluation mode, a scalar."""
        x, y = copied(val_batch)
        with modes_kept(self._module), aside(self._module):
            self._module.eval()
            return unmixed_loss(loss, self._model(x), y)

    def state_dict(self) -> dict[str, Any]:
        """Returns weights, buffers and the optimizer's state, copied."""
        return {
            "model": _copied(self._module.state_dict()),
            "optimizer": deepcopy(self._optimizer.state_dict()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads what `state_dict` gave."""
        self._module.load_state_dict(state["model"])
        self._optimizer.load_state_dict(deepcopy(state["optimizer"]))  # torch would share it


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else deepcopy(value)
        for name, value in state.items()
    }
