"""AdaMixUp in an ordinary training loop on scikit-learn's digits, with a network of one's own."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import core
from core.data import Transform, load_source


class Plain(nn.Module):
    """A small network with BatchNorm, not of `core.models`, cut before its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(256, 64),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(64, 10)

    def features(self, x: Tensor) -> Tensor:
        out: Tensor = self.trunk(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.features(x))
        return out


def test_it_trains() -> None:
    """Eight passes over 1,000 images: few errors on others, and mixed images are recognised."""
    torch.manual_seed(0)
    source = load_source("digits", root=None)
    train, held_out = (
        source.images("train", rows, "cpu") for rows in torch.arange(1297).split(1000)
    )
    transform = Transform.fit(train, flip=False, translate=0)
    [(pixels, y)] = train.batches([torch.arange(1000)])
    x = transform.evaluate(pixels)
    model, policy = Plain(), core.AdaMixUp(Plain())
    optimizer = torch.optim.SGD([*model.parameters(), *policy.parameters()], lr=0.05, momentum=0.9)
    before = policy.held_out_metrics(model, held_out, transform)  # type: ignore[arg-type]
    losses = [
        float(policy.step(model, optimizer, (x[rows], y[rows])).loss)
        for _ in range(8)
        for rows in torch.randperm(1000).split(50)
    ]
    assert all(map(math.isfinite, losses))
    [(images, labels)] = held_out.batches([torch.arange(len(held_out))])
    model.eval()
    with torch.no_grad():
        error = (model(transform.evaluate(images)).argmax(dim=1) != labels).double().mean()
    assert float(error) < 0.15  # chance: 0.9
    metrics = policy.metrics()
    assert 0 < metrics["region_low"] < metrics["region_high"] < 1
    after = policy.held_out_metrics(model, held_out, transform)  # type: ignore[arg-type]
    assert set(after) == {"discriminator_held_out"}
    assert before["discriminator_held_out"] < 60 < 75 < after["discriminator_held_out"]
