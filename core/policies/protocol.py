"""What every interpolation policy does: it gives each sample of a batch its partner and its λ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from core.lazy import torch
from core.mixing.batch import Batch, Loss, soft_cross_entropy
from core.mixing.pairing import ANY, Pairing
from core.policies.stored_state import load_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from core.data import ImageSet, Transform
    from core.meta.stage import MetaOptions, Slope
    from core.mixing.interpolation import Interpolation


class StepInput(NamedTuple):
    """This is what a policy sees of a step, before it.

    Attributes:
        model: maps x [n, ...] to logits [n, C].
        optimizer: of the step to come.
        batch: x [B, ...] floating; y [B] integer or [B, C] soft.
        val_batch: the meta-validation batch, any size; None where no policy reads it.
        generator: the random stream; None: torch's global one.
        loss: as in `learn_interpolation`.
        indices: [B], int64, the positions of the samples in the training set. They are read by
            policies that keep something for each sample, which refuse None, and by no other.
        pairing: says who may be paired with whom; a policy that does not mix has no use for it.

    Examples:
        >>> import torch, core
        >>> class Halves(core.Policy):
        ...     def interpolate(self, step: core.policies.StepInput) -> core.Interpolation:
        ...         core.mixing.check_batch(step.batch, "training")
        ...         lam = step.batch[0].new_full((len(step.batch[0]),), 0.5)
        ...         partner = torch.arange(len(lam), device=lam.device).flip(0)
        ...         return core.Interpolation(lam, partner, lam)
        >>> model = torch.nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> Halves()(model, optimizer, (torch.randn(2, 4), torch.arange(2))).lam.tolist()
        [0.5, 0.5]
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch: Batch
    val_batch: Batch | None
    generator: torch.Generator | None
    loss: Loss
    indices: Tensor | None
    pairing: Pairing

    def validation(self) -> Batch:
        """Returns the meta-validation batch.

        Raises:
            ValueError: there is none.
        """
        if self.val_batch is None:
            raise ValueError("a learned policy needs a meta-validation batch, got None")
        return self.val_batch

    def slope(
        self, options: MetaOptions, lam: Tensor, partner: Tensor, loss: Loss | None = None
    ) -> Slope:
        """Takes the hypergradient of this step at `lam` [B]; see `MetaOptions.slope`."""
        return options.slope(
            self.model,
            self.batch,
            self.validation(),
            lam,
            partner,
            optimizer=self.optimizer,
            loss=loss or self.loss,
            generator=self.generator,
        )


class Policy(Protocol):
    """What a policy sees and gives.

    It sees the model and the optimizer as they stand before the step, the batch, a meta-validation
    batch and a random stream; it changes none of them but the stream, and gives an `Interpolation`.

    A policy of one's own derives from this class and writes `interpolate`, or `__call__` itself;
    all else has a default.

    Attributes:
        needs_meta_validation: whether `val_batch` is read. If not, it may be None.

    Examples:
        >>> import core
        >>> core.Beta(0.5).needs_meta_validation, core.Learned().needs_meta_validation
        (False, True)
    """

    needs_meta_validation: bool = False

    @property
    def scores(self) -> Tensor | None:
        """Returns a score for each training sample, [N], low where learning wants little of it; or
        None, as most policies keep none. See `PersistentScores` and `lowest_scores`."""
        return None

    @property
    def networks(self) -> nn.ModuleList:
        """Networks of its own, which learn with the model; the optimizer holds their parameters."""
        return torch.nn.ModuleList()

    def metrics(self) -> dict[str, float]:
        """Returns what it says of the steps since the last call, by name."""
        return {}

    def held_out_metrics(
        self, model: nn.Module, images: ImageSet, transform: Transform
    ) -> dict[str, float]:
        """Returns what it says, after an epoch, of images that train nothing, by name.

        Networks and modes are as before on return.
        """
        return {}

    def at(self, step: int, steps: int) -> None:
        """Tells it that the next call is step `step`, from 0, of a training of `steps`.

        Said before each step, or once before the first. Policies that change in the course of a
        training read it, and count on from there; to others it says nothing.
        """
        del step, steps

    def __call__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: Batch,
        val_batch: Batch | None = None,
        *,
        generator: torch.Generator | None = None,
        loss: Loss = soft_cross_entropy,
        indices: Tensor | None = None,
        pairing: Pairing = ANY,
    ) -> Interpolation:
        """Returns the interpolation of this batch; the arguments are those of `StepInput`.

        A model that returns more than logits is given as `core.with_logits(model, ...)`.
        """
        return self.interpolate(
            StepInput(model, optimizer, batch, val_batch, generator, loss, indices, pairing)
        )

    def interpolate(self, step: StepInput) -> Interpolation:
        """Returns the interpolation of the batch of this step."""
        raise NotImplementedError(f"{type(self).__name__} must write `interpolate` or `__call__`")

    def state_dict(self) -> dict[str, Any]:
        """Returns what it carries from step to step, so that a resumed training gives the same
        numbers.

        The weights of its networks, unless it says more. Plain types and tensors only.
        """
        return self.networks.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads what `state_dict` gave.

        Raises:
            ValueError: the state is that of another policy, or of networks of other shapes.
        """
        load_weights(self, self.networks, state)
