"""This module is the training loop that a practitioner writes, for `fit` to be measured against."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def plain_epochs(
    model: nn.Module, x: Tensor, y: Tensor, x_val: Tensor, *, epochs: int, batch: int, bf16: bool
) -> Iterator[None]:
    """Trains by MixUp and looks at the validation images; yields after each epoch.

    Args:
        model: on the device of the images.
        x, x_val: uint8 [N, C, S, S]; y: int64 [N].
        epochs, batch: how long, and how many images a step.
        bf16: whether forward passes are autocast and the optimizer fused.
    """
    kind, steps = x.device.type, -(-len(x) // batch)
    mean = x.float().mean((0, 2, 3), keepdim=True)
    std = x.float().std((0, 2, 3), keepdim=True)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4, fused=bf16 or None
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    draws = np.random.default_rng(0)
    for _ in range(epochs):
        model.train()
        total = torch.zeros((), device=x.device)
        for rows in torch.randperm(len(x), device=x.device).split(batch):
            images, labels = (x[rows].float() - mean) / std, y[rows]
            mirrored = torch.rand(len(rows), 1, 1, 1, device=x.device) < 0.5
            images = torch.where(mirrored, images.flip(3), images)
            lam, partner = draws.beta(1, 1), torch.randperm(len(rows), device=x.device)
            images = lam * images + (1 - lam) * images[partner]
            with torch.autocast(kind, torch.bfloat16, enabled=bf16):
                logits = model(images).float()
            loss = lam * F.cross_entropy(logits, labels)
            loss = loss + (1 - lam) * F.cross_entropy(logits, labels[partner])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        model.eval()
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=bf16):
            for images in x_val.split(200):
                model((images.float() - mean) / std)
        yield
