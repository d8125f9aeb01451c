"""What is to be looked at while a network trains, as a frozen dataclass that turns into JSON."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from core.policies.plain_settings import check_kinds, check_numbers

if TYPE_CHECKING:
    from core.policies import PolicyConfig


@dataclass(frozen=True)
class AnalysisConfig:
    """What is looked at in one training beside its errors. It changes nothing in the training.

    A number larger than that of the images there are takes all of them, but of `curvature_pairs`.

    Attributes:
        unmixed_images: training images whose loss, unmixed and not augmented, is taken after each
            epoch (metric unmixed_loss), evenly spaced over the training set.
        pair_epochs: epochs, counted from 1, of which the mean λ of each pair of classes is kept;
            see `pairs_at`.
        plane_images: test images, evenly spaced, whose features are kept at the end; the network
            must have two of them, as cnn_2d has.
        mixed_samples: mixed samples of the training, as many of each epoch, whose distance to real
            samples of other classes is taken at the end; see `core.analysis.intrusion`.
        curvature_pairs: pairs of training images on which both sides of Proposition 1 are measured
            at some epochs (metrics logit_kappa and so on; see `core.analysis.curvature`); the
            network must be smooth, as cnn_smooth is.

    Raises:
        ValueError: a number is negative; epochs do not rise, or start below 1.

    Examples:
        >>> from core.analysis import AnalysisConfig
        >>> AnalysisConfig(unmixed_images=100, pair_epochs=(1, 5)).pair_epochs
        (1, 5)
    """

    unmixed_images: int = 0
    pair_epochs: tuple[int, ...] = ()
    plane_images: int = 0
    mixed_samples: int = 0
    curvature_pairs: int = 0

    def __post_init__(self) -> None:
        check_kinds(self)
        object.__setattr__(self, "pair_epochs", tuple(map(int, self.pair_epochs)))
        counts = (field.name for field in fields(self) if field.name != "pair_epochs")
        check_numbers(self, "be at least 0", *counts)
        for before, epoch in zip((0, *self.pair_epochs), self.pair_epochs, strict=False):
            if epoch <= before:
                raise ValueError(
                    f"pair_epochs must rise from at least 1, got {epoch} after {before}"
                )

    def check(self, model: str, policy: PolicyConfig) -> None:
        """Raises ValueError where a training of this model with this policy cannot be looked at so.

        Args:
            model: its name.
            policy: what mixes.
        """
        if self.plane_images and model != "cnn_2d":
            raise ValueError(
                f"plane_images needs a network with 2 features, which {model} has not; choose the "
                "model cnn_2d"
            )
        if self.mixed_samples and ":" in model:
            raise ValueError(
                f"mixed_samples looks at features, and model {model} shows none; leave it out"
            )
        if self.curvature_pairs and not model.endswith("_smooth"):
            raise ValueError(
                f"curvature_pairs needs a smooth network, and the gradient of {model} jumps; "
                "choose cnn_smooth or digits_cnn_smooth"
            )
        if self.mixed_samples and not policy.blends_inputs:
            raise ValueError(
                f"mixed_samples looks at blends of whole images, and policy {policy.kind} mixes "
                "parts of them; leave it out"
            )

    def pairs_at(self, epochs: int) -> tuple[int, ...]:
        """Returns the epochs of a training of so many in which λ is kept for pairs of classes.

        In one that is shorter than the last of `pair_epochs` all are scaled to it, and rounded up;
        of a longer one the last epoch comes after them.
        """
        if not self.pair_epochs:
            return ()
        last = self.pair_epochs[-1]
        if epochs < last:
            # In whole numbers: a fraction that is rounded up must not depend on rounding.
            return tuple(sorted({-(-epoch * epochs // last) for epoch in self.pair_epochs}))
        return tuple(sorted({*self.pair_epochs, epochs}))
