"""A bench is one model at one size, trained for a while on real images, with a step's batches.

B batch, M meta-validation batch, C classes.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import core
import core.data
import core.models
from core.lazy import functional as F
from core.lazy import torch
from core.mixing.batch import Batch
from core.policies import PolicyConfig
from core.training.config import TrainingConfig
from core.user_model.precision import autocast_region

if TYPE_CHECKING:
    from torch import Tensor, nn

    from core.data import Source

TRAINING_BATCH = 64
"""The batch of the steps before the measurement: larger ones would only take longer."""

LR, MOMENTUM, WEIGHT_DECAY = 0.02, 0.9, 1e-4
"""The SGD that trains the model; its rate is the virtual step's too."""

READING = core.DEFAULT
"""How λ moves; the time does not depend on it."""

_POOL = 4096
"""Images that batches are drawn from."""


@dataclass(frozen=True)
class Case:
    """A case is one model at one size.

    Attributes:
        model, width: a name of `core.models.MODELS`; None is the published width.
        image_size, channels: of the images, which are enlarged or repeated where they have less.
        batch_size, meta_batch_size: B and M.
        train_steps: plain MixUp steps on real images before anything is measured; 0 for rows of
            growth, whose time does not depend on the weights.
        part: "main" for a row of the table, "batch" or "depth" for a point of a growth curve, "fit"
            for whole epochs.
    """

    model: str
    image_size: int
    channels: int
    batch_size: int
    meta_batch_size: int
    width: int | None = None
    train_steps: int = 100
    part: str = "main"

    def network(self, classes: int) -> nn.Module:
        """Returns the model, untrained."""
        return core.models.build_model(
            self.model,
            in_channels=self.channels,
            num_classes=classes,
            image_size=self.image_size,
            width=self.width,
        )

    def shaped(self, images: Tensor) -> Tensor:
        """Returns images [n, C, S, S], floating, at the size and with the channels of the case."""
        size = (self.image_size, self.image_size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        if images.shape[1] != self.channels:
            images = images.mean(dim=1, keepdim=True).repeat(1, self.channels, 1, 1)
        return images

    def training(self, setting: Setting, policy: PolicyConfig, **settings: Any) -> TrainingConfig:
        """Returns the training of the case under a policy, by the SGD of the bench."""
        return TrainingConfig(
            dataset=setting.dataset,
            model=self.model,
            width=self.width,
            image_size=self.image_size,
            policy=policy,
            batch_size=self.batch_size,
            meta_size=self.meta_batch_size,
            meta_batch_size=self.meta_batch_size,
            seed=setting.seed,
            lr=LR,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            **settings,
        )


@dataclass(frozen=True)
class Setting:
    """A setting says how all cases of a study run.

    Attributes:
        dataset: whose images are used.
        device: "cpu" or "cuda".
        threads: of torch on the CPU.
        autocast: "bf16" or None.
        channels_last: whether weights and images lie in that memory format.
        repeats: rounds of the interleaved timing.
        seed: of weights, batches, λ and the order within a round.
    """

    dataset: str = "digits"
    device: str = "cpu"
    threads: int = 1
    autocast: str | None = None
    channels_last: bool = False
    repeats: int = 9
    seed: int = 0

    @property
    def variant(self) -> str:
        """Says what differs from float32 on the CPU: "", "cuda", "cuda-bf16-channels_last"."""
        parts = ["cuda"] if self.device == "cuda" else []
        parts += [self.autocast] if self.autocast else []
        parts += ["channels_last"] if self.channels_last else []
        return "-".join(parts)


@dataclass(frozen=True)
class Bench:
    """A bench is a model, its optimizer and the batches that every contender's step works on.

    Attributes:
        model: in training mode.
        optimizer: of the real step, SGD with momentum; its rate is the virtual step's too.
        batch: x [B, ...] float32, y [B] int64; val_batch: the same of M.
        lam: [B], float32, where hypergradients are compared; partner: [B], int64.
        autocast: dtype of the forward passes, or None.
        generator: what steps draw λ0 and pairs from.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch: Batch
    val_batch: Batch
    lam: Tensor
    partner: Tensor
    autocast: torch.dtype | None
    generator: torch.Generator

    @property
    def lr(self) -> float:
        """Returns the rate of the virtual step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def device(self) -> torch.device:
        """Returns where everything lies."""
        return self.batch[0].device

    def autocast_region(self) -> contextlib.AbstractContextManager[object]:
        """Returns what forward passes run in."""
        return autocast_region(self.device.type, self.autocast)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Returns λ0 [B] and pairs [B] of one step, as `core.learn_interpolation` draws them."""
        drawn: dict[str, Any] = {"generator": self.generator, "device": self.device}
        n = len(self.lam)
        return core.draw_beta(n, READING.init_alpha, **drawn), core.draw_partners(n, **drawn)

    def real_step(self, lam: Tensor, partner: Tensor, lam_init: Tensor | None = None) -> None:
        """Takes the step on the mixed batch, the same for every contender."""
        mixed = core.Interpolation(lam, partner, lam if lam_init is None else lam_init)
        core.mixed_step(self.model, self.optimizer, self.batch, mixed, autocast=self.autocast)

    def hypergradient(self, **options: Any) -> Tensor:
        """Returns `core.hypergradient` [B] at the bench's λ and pairs, with options of its own."""
        with self.autocast_region():
            return core.hypergradient(
                self.model,
                self.batch,
                self.val_batch,
                self.lam,
                self.partner,
                lr=self.lr,
                **options,
            )

    def with_meta_batch(self, size: int) -> Bench:
        """Returns the same bench with the first `size` images of the meta-validation batch."""
        x, y = self.val_batch
        return replace(self, val_batch=(x[:size], y[:size]))

    def at_most(self, size: int) -> Bench:
        """Returns the same bench with at most so many samples a batch, paired among themselves."""
        if len(self.lam) <= size and len(self.val_batch[1]) <= size:
            return self
        x, y = self.batch
        return replace(
            self.with_meta_batch(size),
            batch=(x[:size], y[:size]),
            lam=self.lam[:size],
            partner=self.partner[:size].argsort(),
        )

    def double(self) -> Bench:
        """Returns a copy in float64 without autocast, its optimizer fresh at the same rate."""
        model = copy.deepcopy(self.model).double()
        return replace(
            self,
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=self.lr),
            batch=(self.batch[0].double(), self.batch[1]),
            val_batch=(self.val_batch[0].double(), self.val_batch[1]),
            lam=self.lam.double(),
            autocast=None,
        )

    def rewinder(self) -> Callable[[], None]:
        """Returns a function that puts weights, buffers and momentum back to what they are now."""
        state = [*self.model.state_dict().values()]
        for entry in self.optimizer.state.values():
            state += [value for value in entry.values() if isinstance(value, torch.Tensor)]
        saved = [tensor.clone() for tensor in state]

        def rewind() -> None:
            with torch.no_grad():
                for tensor, value in zip(state, saved, strict=True):
                    tensor.copy_(value)
            self.optimizer.zero_grad(set_to_none=True)

        return rewind


def build_bench(case: Case, setting: Setting, source: Source) -> Bench:
    """Returns the model of `case`, trained for its `train_steps`, with batches to measure on.

    Raises:
        ValueError: the model does not take images of this size.
        torch.OutOfMemoryError, RuntimeError: it does not fit the device.
    """
    device = torch.device(setting.device)
    generator = torch.Generator().manual_seed(setting.seed)
    draw = _Images(case, setting, source, generator)
    with torch.random.fork_rng(devices=[0] if device.type == "cuda" else []):
        torch.manual_seed(setting.seed)
        model = case.network(source.num_classes).to(device).train()
    if setting.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    n = case.batch_size
    bench = Bench(
        model=model,
        optimizer=optimizer,
        batch=draw(n),
        val_batch=draw(case.meta_batch_size),
        lam=core.draw_beta(n, 1.0, generator=generator, device=device),
        partner=core.draw_partners(n, generator=generator, device=device),
        autocast=torch.bfloat16 if setting.autocast == "bf16" else None,
        generator=generator,
    )
    for _ in range(case.train_steps):
        fewer = min(n, TRAINING_BATCH)
        small = replace(bench, batch=draw(fewer), lam=bench.lam[:fewer])
        small.real_step(*small.draw())
    optimizer.zero_grad(set_to_none=True)
    return bench


class _Images:
    """Batches of normalized training images at the case's size."""

    def __init__(
        self, case: Case, setting: Setting, source: Source, generator: torch.Generator
    ) -> None:
        pool = torch.randperm(len(source.train_labels), generator=generator)[:_POOL]
        self._images = source.images("train", pool.sort().values, setting.device)
        self._transform = core.data.Transform.fit(self._images)
        self._case, self._setting, self._generator = case, setting, generator

    def __call__(self, n: int) -> Batch:
        # With replacement: batches of the growth curves may be larger than a small data set.
        indices = torch.randint(len(self._images), (n,), generator=self._generator)
        ((pixels, labels),) = self._images.batches([indices])
        x = self._case.shaped(self._transform.evaluate(pixels))
        if self._setting.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return x, labels
