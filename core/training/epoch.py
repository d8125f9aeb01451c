"""One pass of supervised training over the data, and the evaluation after it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from core.analysis.observer import Observer
from core.data.prepared import CellData
from core.evaluation import evaluate
from core.models import ImageClassifier
from core.policies.adamixup.policy import AdaMixUp
from core.policies.adamixup.recognition import recognition
from core.policies.protocol import Policy
from core.random_streams import RandomStreams
from core.real_step import mixed_step
from core.training.config import TrainingConfig
from core.training.optimizers import learning_rate
from core.training.result import Metrics, check_convergence
from core.training.statistics import LambdaStatistics


def train_epoch(
    config: TrainingConfig,
    epoch: int,
    model: ImageClassifier,
    optimizer: torch.optim.Optimizer,
    policy: Policy,
    data: CellData,
    streams: RandomStreams,
    observer: Observer | None,
    history: list[Metrics],
) -> tuple[Metrics, LambdaStatistics]:
    """One epoch of training and the evaluation after it. Returns metrics and what λ did."""
    begun = time.perf_counter()
    order = _training_order(config, len(data.train), streams["order"])
    steps = len(order) * config.epochs
    meta_batches = (
        data.meta.batches(_meta_order(config, len(data.meta), len(order), streams["meta"]))
        if policy.needs_meta_validation
        else iter(())
    )
    statistics = LambdaStatistics()
    device = next(model.parameters()).device
    total = torch.zeros((), dtype=torch.float64, device=device)  # moved once an epoch
    meta_total = torch.zeros((), dtype=torch.float64, device=device)
    meta_stages = 0
    seen = history[-1]["samples_seen"] if history else 0.0
    model.train()
    batches = zip(order, data.train.batches(order, streams["augmentation"]), strict=True)
    for i, (indices, (images, labels)) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, epoch * len(order) + i, steps)
        batch = (data.transform.train(images, streams["augmentation"]), labels)
        meta = next(meta_batches, None)
        val_batch = None if meta is None else (data.transform.evaluate(meta[0]), meta[1])
        interpolation = policy(
            model, optimizer, batch, val_batch, generator=streams["policy"], indices=indices
        )
        result = mixed_step(model, optimizer, batch, interpolation)
        statistics.add(interpolation)
        if observer is not None:
            observer.step(indices, interpolation)
        total += result.loss.double() * len(labels)
        seen += len(labels) + interpolation.extra_samples
        if result.meta_loss is not None:
            meta_total += result.meta_loss.double()
            meta_stages += 1
    train_loss = float(total) / len(data.train)
    seconds = time.perf_counter() - begun + (history[-1]["train_seconds"] if history else 0.0)
    validation = evaluate(model, data.meta, data.transform)
    check_convergence(epoch + 1, train_loss, validation.loss, lr=config.lr, history=history)
    metrics = {
        "epoch": float(epoch + 1),
        "train_loss": train_loss,
        "val_loss": validation.loss,
        "val_error": validation.error,
        "lr": learning_rate(config, epoch * len(order), steps),
        "train_seconds": seconds,
        "samples_seen": seen,
        **statistics.metrics(),
    }
    if isinstance(policy, AdaMixUp):
        metrics |= policy.metrics()
        if not config.meta_in_training:
            metrics |= recognition(policy, model, data.meta, data.transform)
    if observer is not None:
        metrics |= observer.epoch(epoch + 1, model)
    if meta_stages:
        metrics["meta_loss"] = float(meta_total) / meta_stages
    return metrics, statistics


def _training_order(
    config: TrainingConfig, size: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Indices of the epoch's batches. A single image left over joins the batch before it: on its
    own it has no partner, and BatchNorm no variance where the feature maps are down to a pixel."""
    batches = torch.randperm(size, generator=generator).split(config.batch_size)
    if len(batches) > 1 and len(batches[-1]) == 1 < config.batch_size:
        batches = (*batches[:-2], torch.cat(batches[-2:]))
    return batches


def _meta_order(
    config: TrainingConfig, size: int, steps: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Indices of a meta-validation batch for each step: reshuffled passes, whole batches only."""
    batch = min(config.meta_batch_size, size)
    produced = 0
    while True:
        for indices in torch.randperm(size, generator=generator).split(batch):
            if len(indices) < batch:
                continue
            yield indices
            produced += 1
            if produced == steps:
                return
