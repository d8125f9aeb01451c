"""This module holds the protocol of a mixing, and the mixing of whole inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from core.mixing.batch import Call, mix_inputs


class Mixing(Protocol):
    """A mixing says where and how the pairs of a batch are blended.

    The kinds are `InputMixing`, `AreaMixing` and `HiddenMixing`. Whatever is random in one is drawn
    once for each batch, so that the virtual and the real pass differ in λ alone.

    Examples:
        >>> import core
        >>> mixing: core.Mixing = core.AreaMixing()
        >>> core.Learned(mixing=mixing).mixing.hooks
        False
    """

    @property
    def hooks(self) -> bool:
        """Says whether it works by forward hooks, which a graph compiled before does not see."""

    def draw(self, x: Tensor, generator: torch.Generator | None) -> Mixing:
        """Returns it with all that it draws for one batch fixed, or itself if nothing is drawn.

        Args:
            x: [B, ...], the batch; only its shape and device are read.
            generator: the random stream; None is torch's global CPU one.
        """

    def logits(
        self, call: Call, model: nn.Module, x: Tensor, lam: Tensor, partner: Tensor
    ) -> Tensor:
        """Returns the network's output on the mixed batch, differentiable in λ.

        Args:
            call: runs the network on an input [B, ...], plainly or by `functional_call`.
            model: the plain module whose submodules `call` runs.
            x: [B, ...], floating.
            lam: [B], floating, any dtype.
            partner: [B], int64, indices into the batch.

        Returns:
            What `call` returns, [B, C] for a classifier.
        """


def takes_tokens(mixing: Mixing) -> bool:
    """Says whether a batch that is mixed so may hold the numbers of tokens.

    Raises:
        ValueError: it is no mixing.
    """
    parts = ("hooks", "draw", "logits")
    if isinstance(mixing, type) or not all(hasattr(mixing, part) for part in parts):
        raise ValueError(f"mixing must be a core.Mixing, such as core.AreaMixing(); got {mixing!r}")
    return mixing.hooks


@dataclass(frozen=True)
class InputMixing:
    """This is MixUp (Eq. 4), `lam_i·x_i + (1 − lam_i)·x_partner_i`. It draws nothing.

    Examples:
        >>> import core
        >>> model, optimizer, batch, val_batch = core.testing.toy_problem()
        >>> policy = core.Learned(mixing=core.InputMixing())
        >>> policy(model, optimizer, batch, val_batch).lam.shape
        torch.Size([8])
    """

    hooks = False

    def draw(self, x: Tensor, generator: torch.Generator | None) -> InputMixing:
        """Returns itself."""
        return self

    def logits(
        self, call: Call, model: nn.Module, x: Tensor, lam: Tensor, partner: Tensor
    ) -> Tensor:
        """Runs the network on the mixed inputs; see `Mixing`."""
        return call(mix_inputs(x, lam, partner))


INPUT = InputMixing()
"""The default."""
