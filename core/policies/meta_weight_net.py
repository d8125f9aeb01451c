"""Meta-Weight-Net: a small network that gives a sample its weight by its loss."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.meta.sample_losses import losses_now
from core.policies.limits import check_net
from core.policies.protocol import StepInput
from core.policies.sample_weights import SampleWeights
from core.policies.stored_state import check_stored, load_weights
from core.user_model.precision import outside_autocast
from core.user_model.ranks import Ranks


@dataclass
class MetaWeightNet(SampleWeights):
    """Weights V(ℓ_i; Θ) of each sample's loss, Θ learned by hypergradient over the whole training.

    Shu et al., "Meta-Weight-Net: Learning an Explicit Mapping for Sample Weighting" (NeurIPS 2019),
    Algorithm 1. V is a perceptron 1-`hidden`-1 with ReLU and a sigmoid at its end. A step takes the
    losses of the batch as they stand (constants to V's input), the virtual step at V's weights, the
    hypergradient through them to Θ, one Adam step of Θ, and then the real step at the new weights.
    Both steps descend `(1/B) Σ_i V(ℓ_i; Θ) ℓ_i` (Eq. 1), weights not normalized.

    Weights cost one forward pass of the batch more than `LearningToReweight`. V starts as
    `nn.Linear` does, drawn from torch's global stream when the policy is made; it computes in its
    own dtype, float32. Its optimizer is its own: `networks` is empty. Belongs to one training.
    Under DistributedDataParallel all ranks keep the same Θ, the mean of what they were made with.

    Attributes:
        hidden: units of V; the paper has 100.
        lr, weight_decay: of V's Adam, as published. They may be changed between steps, and are this
            object's also after `load_state_dict`.
        network: V itself, losses [B, 1] → weights [B, 1].

    See `SampleWeights` for the rest.

    Examples:
        >>> import core
        >>> policy = core.MetaWeightNet()
        >>> model, optimizer, batch, val_batch = core.testing.toy_problem()
        >>> interpolation = policy(model, optimizer, batch, val_batch)
        >>> sorted(policy.metrics())
        ['weight_at_high_loss', 'weight_at_low_loss']
    """

    hidden: int = 100
    lr: float = 1e-3
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        check_net(self.hidden, self.lr, self.weight_decay)
        self.network = nn.Sequential(
            nn.Linear(1, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 1), nn.Sigmoid()
        )
        self._optimizer = torch.optim.Adam(
            self.network.parameters(), lr=self.lr, weight_decay=self.weight_decay
        )
        self._agreed = False
        self._losses = torch.zeros(0)

    def extra_samples(self, n: int) -> int:
        """Returns n: losses are of a pass of their own."""
        return n

    def metrics(self) -> dict[str, float]:
        """Returns weight_at_low_loss and weight_at_high_loss: V at losses of 0.1 and 3, near and
        above that of a guess among ten classes."""
        ends = torch.tensor([0.1, 3.0], device=next(self.network.parameters()).device)
        low, high = self._weights(ends).tolist()
        return {"weight_at_low_loss": low, "weight_at_high_loss": high}

    def start(self, step: StepInput, like: Tensor, ranks: Ranks) -> Tensor:
        """Returns V of the losses as they stand; see `SampleWeights`."""
        self._move_to(like.device)
        if ranks.size > 1 and not self._agreed:
            parameters = list(self.network.parameters())
            with torch.no_grad():
                for p, mean in zip(parameters, ranks.mean(parameters), strict=True):
                    p.copy_(mean)
        self._agreed = True
        self._losses = losses_now(step.model, step.batch, step.loss)
        with torch.enable_grad():
            return self._weights(self._losses).to(like.dtype)

    def learned(self, start: Tensor, moving: Tensor, ranks: Ranks) -> Tensor:
        """Takes V's step, and returns its new weights; see `SampleWeights`."""
        parameters = list(self.network.parameters())
        with outside_autocast(start.device.type):
            slopes = ranks.mean(torch.autograd.grad(start, parameters, moving))
        # A batch that overflows, whose real step a loss scale skips, must not make Θ NaN for good.
        if all(bool(slope.isfinite().all()) for slope in slopes):
            for p, slope in zip(parameters, slopes, strict=True):
                # The joint loss is that of all ranks together, and so is Θ.
                p.grad = slope * ranks.size
            self._optimizer.param_groups[0].update(lr=self.lr, weight_decay=self.weight_decay)
            self._optimizer.step()
            self._optimizer.zero_grad()
        with torch.no_grad():
            return self._weights(self._losses).to(start.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Returns Θ and the state of its optimizer, copied."""
        network = {name: value.clone() for name, value in self.network.state_dict().items()}
        optimizer = self._optimizer.state_dict()
        optimizer["state"] = {
            at: {name: torch.as_tensor(value).clone() for name, value in of.items()}
            for at, of in optimizer["state"].items()
        }
        return {"network": network, "optimizer": optimizer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_stored(self, state, MetaWeightNet)
        load_weights(self, self.network, state["network"])
        self._optimizer.load_state_dict(deepcopy(state["optimizer"]))  # torch would share it
        self._agreed = True

    def _weights(self, losses: Tensor) -> Tensor:
        dtype = next(self.network.parameters()).dtype
        with torch.autocast(losses.device.type, enabled=False):
            weights: Tensor = self.network(losses.to(dtype).unsqueeze(1)).squeeze(1)
        return weights

    def _move_to(self, device: torch.device) -> None:
        if next(self.network.parameters()).device != device:
            self.network.to(device)
            self._optimizer.load_state_dict(self._optimizer.state_dict())  # which follows
