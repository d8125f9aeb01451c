"""On images of one pixel whose mixing can be seen, and on networks that look like none trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import core
from core.data import DeviceImages, Transform, load_source
from core.models import build_model


@dataclass
class Pixels:
    """Images of one pixel, as an `ImageSet`."""

    values: Tensor
    draws = False

    def __post_init__(self) -> None:
        self.labels = torch.zeros(len(self.values), dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.values)

    def batches(
        self, index_batches: Iterable[Tensor], generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in index_batches:
            yield self.values[rows].view(-1, 1, 1, 1), self.labels[rows]


class Looks(nn.Module):
    """A network whose feature is |x|, 1 for pixels of ±1 and less where two signs are mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(1, 2)

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1).abs()

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def looking(threshold: float, **options: Any) -> core.AdaMixUp:
    """Calls an image real if |x| is above the threshold."""
    policy = core.AdaMixUp(Looks(), **options)  # type: ignore[arg-type]
    head = policy.discriminator
    if head is not None:
        with torch.no_grad():
            head.hidden.weight.copy_(torch.tensor([[1.0], [0.0]]))
            head.output.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
            head.output.bias.copy_(torch.tensor([0.0, -threshold]))
    return policy


class AsTheyAre:
    """Of a `Transform` what is asked for."""

    def evaluate(self, x: Tensor) -> Tensor:
        return x


def seen(policy: core.AdaMixUp, values: Tensor) -> dict[str, float]:
    return policy.held_out_metrics(Looks(), Pixels(values), AsTheyAre())  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [2, 3, 200, 201, 401])
def test_accuracy_is_the_mean_of_both_kinds(n: int) -> None:
    """A pair of two signs is seen to be mixed where λ is not near an end; no pair is one image."""
    values = torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0)
    actual = seen(looking(0.99, quantiles=(0.3, 0.7)), values)["discriminator_held_out"]
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    parts = 1 if n <= 200 else (2 if n <= 400 else 3)
    mixed = 0
    for part in order.tensor_split(parts):
        assert len(part) > 1
        signs = values[part].tolist()
        mixed += sum(a != b for a, b in zip(signs, [*signs[1:], signs[0]], strict=True))
    assert 0 < mixed <= n
    assert actual == pytest.approx(50 + 50 * mixed / n)


def test_all_of_different_images_are_recognised_and_nothing_by_guessing() -> None:
    values = torch.tensor([1.0, -1.0])
    assert seen(looking(0.99, quantiles=(0.3, 0.7)), values) == {"discriminator_held_out": 100.0}
    for threshold in (-1.0, 2.0):  # all real, all mixed
        assert seen(looking(threshold, quantiles=(0.3, 0.7)), values) == {
            "discriminator_held_out": 50.0
        }
    # λ at an end is no mixing.
    assert seen(looking(0.99, quantiles=(1.0, 1.0)), values) == {"discriminator_held_out": 50.0}
    assert seen(looking(0.99, discriminator=False), values) == {}


def test_it_changes_nothing_and_says_the_same_again() -> None:
    def network() -> Any:
        return build_model("wrn_28_2", in_channels=1, num_classes=10, image_size=8, width=2)

    source = load_source("digits", root=None)
    images = source.images("train", torch.arange(230), "cpu")
    assert isinstance(images, DeviceImages)
    transform = Transform.fit(images, flip=False, translate=0)
    model, policy = network(), core.AdaMixUp(network())
    next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).eval()  # stays so
    whole = nn.ModuleList([model, policy.networks])
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    modes = [module.training for module in whole.modules()]
    stands = torch.get_rng_state()
    first = policy.held_out_metrics(model, images, transform)
    assert policy.held_out_metrics(model, images, transform) == first
    assert torch.equal(torch.get_rng_state(), stands)
    assert [module.training for module in whole.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in whole.state_dict().items())
    assert policy.metrics() == {}
