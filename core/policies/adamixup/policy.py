"""AdaMixUp: λ from a region that a network chooses for each pair, guarded against intrusion.

Guo, Mao and Zhang, "MixUp as Locally Linear Out-of-Manifold Regularization" (AAAI 2019), in the
form of the code that they released (SITE5039/AdaMixUp). Three networks learn by one optimizer and
one loss: the classifier; the *policy generator*, which gives every pair the region [a, a + b] that
its λ is drawn from; the *intrusion discriminator* on the classifier's features, which tells mixed
images from real ones. Both cross-entropies reach the generator through the mixed images, and the
second draws it towards images that do not pass for real ones.

They do not reach it through the mixed labels. The released code has no stop-gradient of its own,
but its tf.nn.softmax_cross_entropy_with_logits passes no gradient to the labels. It matters: a
label of less entropy costs less, whatever the classifier says, and with that reward the region was
at a corner of the simplex within 50 steps on Fashion-MNIST ([0, 1] or [0, 0], SGD and Adam alike),
where its softmax moves no more. Without it the region narrows to a point, λ = 1/2, with a
discriminator and without one, and for all pairs alike (docs/table1.md): mixed images at 1/2 are
the ones best told from real ones, and the ones that cost the classifier least where it is surer
than the label it is held to. Adam, which makes large steps of small gradients, can still be at a
corner before the discriminator has learned anything: look at `AdaMixUp.metrics`.

Shapes here: B batch, h its first half (the larger one where B is odd, and all of a batch of two),
D features. The first half is mixed within itself. The classifier learns from its mixed and from its
plain images; the other half, which no λ has touched, is seen by the discriminator alone. One pass
over the data so trains the classifier on half of the labels. (In the released code partners come
from the whole batch, so "unseen" images may be mixed in.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from core.evaluation import BATCH, evaluating
from core.mixing.batch import (
    Batch,
    Loss,
    check_batch,
    draw_partners,
    mix_inputs,
    soft_cross_entropy,
)
from core.mixing.pairing import ANY, Pairing
from core.mixing.real_step import StepResult, mixed_step
from core.policies.adamixup.interpolation import (
    MIXED,
    REAL,
    AdaMixUpInterpolation,
    Record,
    first_half,
)
from core.policies.adamixup.networks import IntrusionDiscriminator, PolicyGenerator, masked_average
from core.policies.drawn import check_quantiles, draw_quantiles
from core.policies.protocol import Policy, StepInput
from core.random_streams import stream_device
from core.user_model.precision import autocast_region
from core.user_model.wrapped_models import ranks_of, unwrap

if TYPE_CHECKING:
    from core.data import ImageSet, Transform
    from core.models.classifier import ImageClassifier


class AdaMixUp(Policy):
    """AdaMixUp as a `Policy`: it gives a batch its λ, and the loss through which all of it learns.

    Its networks belong to one training, and their parameters into its optimizer, with the weight
    decay of the rest. They stay in training mode. BatchNorm's running statistics of the classifier
    move in the classifier's own pass and not in the discriminator's. What is random is drawn from
    the stream in this order: partners [h], the two masks of the generator's input, one number [h]
    for each region.

    The released code shows the generator unscaled pixels; here it sees what the classifier sees.

    Args:
        backbone: a network like the one to train, not that one: the policy generator takes it over.
            Of `core.models`, or any module whose `classifier`, an `nn.Linear`, is its last layer.
        discriminator: False is AdaMixUp without the intrusion discriminator.
        quantiles: the control, AdaMixUp whose region is not learned: λ is drawn from this
            distribution (see `Frozen`), all else is as it was, and there is no policy generator.
            The stream then gives partners [h] and one number [h] for each λ.

    Raises:
        ValueError: `backbone` has no such layer; `quantiles` are none.

    Example: in an ordinary loop, with a network of one's own that is cut before its last layer.
        >>> import torch, core
        >>> class Network(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.trunk = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU())
        ...         self.classifier = torch.nn.Linear(32, 10)
        ...     def features(self, x):
        ...         return self.trunk(x)
        ...     def forward(self, x):
        ...         return self.classifier(self.features(x))
        >>> model, adamixup = Network(), core.AdaMixUp(Network())
        >>> optimizer = torch.optim.SGD([*model.parameters(), *adamixup.parameters()], lr=0.1)
        >>> for x, y in [(torch.randn(8, 64), torch.randint(10, (8,))) for _ in range(3)]:
        ...     result = adamixup.step(model, optimizer, (x, y))
        >>> result.lam.shape
        torch.Size([4])
        >>> 0 < adamixup.metrics()["region_low"] < 1
        True
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        discriminator: bool = True,
        quantiles: tuple[float, ...] | None = None,
    ):
        classifier = getattr(backbone, "classifier", None)
        if not isinstance(classifier, nn.Linear):
            raise ValueError(
                f"AdaMixUp needs {type(backbone).__name__}.classifier, an nn.Linear and the last "
                "layer, in whose place it puts its own; name your last layer so"
            )
        if quantiles is not None:
            check_quantiles(quantiles)
        self.discriminator = IntrusionDiscriminator(classifier) if discriminator else None
        self.policy_generator = None if quantiles is not None else PolicyGenerator(backbone)
        self.quantiles = quantiles
        self._record = Record()

    @property
    def networks(self) -> nn.ModuleList:
        """Returns generator and discriminator, if they are there: what learns beside the model."""
        both = (self.policy_generator, self.discriminator)
        return nn.ModuleList(network for network in both if network is not None)

    def parameters(self) -> list[nn.Parameter]:
        """Returns those of its networks, for the optimizer."""
        return list(self.networks.parameters())

    def interpolate(self, step: StepInput) -> AdaMixUpInterpolation:
        """Returns λ and partners of the first half, attached to the graph of the policy generator.

        Raises:
            ValueError: the batch has a single sample; the optimizer does not hold the networks, or
                is LBFGS; `model` has no features; pairs are asked for that it does not make.
        """
        check_batch(step.batch, "training")
        self._check(step.model, step.optimizer, step.pairing)
        x, generator = step.batch[0], step.generator
        h = first_half(x.shape[0])
        first = x[:h]
        partner = draw_partners(h, generator=generator, device=x.device)
        with torch.enable_grad():  # whatever the caller's mode is
            lam, region = self.draw(first, partner, generator)
        if region is not None:
            low, high = region
            self._record.add("region_low", low.mean())
            self._record.add("region_high", high.mean())
            self._record.add("region_spread", ((low + high) / 2).std(correction=0))
        passes = 2 * h - x.shape[0]
        if self.policy_generator is not None:
            passes += h
        if self.discriminator is not None:
            passes += x.shape[0] + h
        return AdaMixUpInterpolation(
            lam,
            partner,
            lam.detach(),
            extra_samples=passes,
            discriminator=self.discriminator,
            record=self._record,
        )

    def draw(
        self, x: Tensor, partner: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Returns λ of each pair, [n], and the ends a and a + b, each [n], of the region that it is
        drawn from; None in their place where the region is not learned. `metrics` does not hear of
        it.

        Args:
            x: [n, ...], what the classifier sees.
            partner: [n], int64.
            generator: the stream.
        """
        n, dtype = len(x), torch.promote_types(x.dtype, torch.float32)
        if self.policy_generator is None:
            assert self.quantiles is not None
            return draw_quantiles(n, self.quantiles, generator, x.device, dtype), None
        a, b, _ = self.policy_generator(masked_average(x, partner, generator)).unbind(dim=1)
        source = stream_device(generator)
        share = torch.rand(n, generator=generator, device=source, dtype=dtype).to(x.device)
        lam = (a + share * b).to(dtype)
        # Rounding can take a + b, and so λ, a little above 1. Not by `clamp`: at 1 itself releases
        # of torch differ in its derivative.
        return torch.where(lam > 1, 1.0, lam), (a, a + b)

    def step(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: Batch,
        *,
        loss: Loss = soft_cross_entropy,
        generator: torch.Generator | None = None,
        autocast: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
        clip_grad_norm: float | None = None,
        micro_batch: tuple[int, int] = (0, 1),
    ) -> StepResult:
        """Takes one iteration in an ordinary training loop: all networks learn from the batch.

        Args:
            model: has `features(x)` [n, D] beside its logits [n, C], as `core.models` have.
            optimizer: holds the model's parameters and `parameters()`.
            batch: x [B, ...] floating, B ≥ 2; y [B] integer or [B, C] soft.
            loss, generator, autocast, scaler, clip_grad_norm, micro_batch: as in `metamixup_step`.

        Returns:
            `StepResult`; its loss is the sum of both cross-entropies, `lam` and `partner` are [h].

        Raises:
            ValueError: as a call.
        """
        check_batch(batch, "training")
        with autocast_region(batch[0].device.type, autocast):
            interpolation = self(model, optimizer, batch, generator=generator, loss=loss)
        return mixed_step(
            model,
            optimizer,
            batch,
            interpolation,
            loss=loss,
            autocast=autocast,
            scaler=scaler,
            clip_grad_norm=clip_grad_norm,
            micro_batch=micro_batch,
        )

    def metrics(self) -> dict[str, float]:
        """Returns means over the steps since the last call.

        Where the region is learned, region_low and region_high, a and a + b, and region_spread, the
        standard deviation of their middle over the pairs of a batch: 0 where all pairs have one
        region. With a discriminator, discriminator_loss and discriminator_accuracy, in percent: the
        mean of the shares of real and of mixed images that it recognizes, so that any guess without
        looking gives 50. These are images that it learns from; for others see `held_out_metrics`.
        """
        return self._record.take()

    def held_out_metrics(
        self, model: nn.Module, images: ImageSet, transform: Transform
    ) -> dict[str, float]:
        """Returns discriminator_held_out, in percent: the mean of the shares of real and of mixed
        images that the discriminator recognizes; 50 by guessing. Empty without a discriminator.

        Every image is shown as it is, and mixed with the next one of a shuffled order, so that none
        is mixed with itself. (In training partners are shuffled, and on average one pair of a batch
        is the same image twice, which no one can recognize.) Order and λ are drawn from the same
        numbers each time: values differ by the networks alone. These are in evaluation mode, and
        modes are as before on return.

        Args:
            model: the classifier, one of `core.models`.
            images: two or more.
            transform: makes numbers of pixels.
        """
        if self.discriminator is None:
            return {}
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(len(images), generator=generator)
        recognized = 0
        with evaluating(nn.ModuleList([model, self.networks])):
            # Parts of nearly one size: none is a single image.
            for pixels, _ in images.batches(order.tensor_split(-(-len(order) // BATCH))):
                x = transform.evaluate(pixels)
                partner = torch.arange(len(x), device=x.device).roll(-1)
                lam, _ = self.draw(x, partner, generator)
                for shown, kind in ((x, REAL), (mix_inputs(x, lam, partner), MIXED)):
                    features = cast("ImageClassifier", model).features(shown)
                    recognized += int((self.discriminator(features).argmax(dim=1) == kind).sum())
        return {"discriminator_held_out": 100 * recognized / (2 * len(images))}

    def _check(self, model: nn.Module, optimizer: torch.optim.Optimizer, pairing: Pairing) -> None:
        if pairing != ANY:
            raise ValueError(
                f"AdaMixUp pairs the first half of a batch and nothing else: {pairing}"
            )
        if ranks_of(model).size > 1:
            raise ValueError(
                "nothing averages the gradients of AdaMixUp's own networks over the processes of "
                "DistributedDataParallel, on which they would drift apart; train in one process, "
                "or with another policy"
            )
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ValueError(
                "LBFGS evaluates its gradient several times a step, and the graph of AdaMixUp's λ "
                "is there for one; use another optimizer"
            )
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if any(id(p) not in held for p in self.parameters()):
            raise ValueError(
                "the optimizer does not hold AdaMixUp's own networks, which would never learn; "
                "build it on [*model.parameters(), *adamixup.parameters()]"
            )
        if self.discriminator is not None and not hasattr(unwrap(model), "features"):
            raise ValueError(
                f"the intrusion discriminator needs {type(unwrap(model)).__name__}.features(x), "
                "[n, D], which the models of core.models have; or give discriminator=False"
            )
