"""One training: its loop over an epoch, the evaluation after it, and its state."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from core.analysis.observer import Observer
from core.data import ImageSet, Source, balanced_draws
from core.evaluation import Evaluation, evaluate, predict
from core.mixing.real_step import mixed_step
from core.models import ImageClassifier
from core.policies import NoMix
from core.random_streams import RandomStreams, global_streams, set_global_streams
from core.training.config import TrainingConfig
from core.training.network import build_network
from core.training.objective import Objective
from core.training.optimizers import build_optimizer, learning_rate
from core.training.prepared_data import prepare_data
from core.training.result import Metrics, TrainingResult, check_convergence
from core.training.statistics import LambdaSchedule, LambdaStatistics
from core.user_model.precision import Precision, outside_autocast, wide_dtype
from core.user_model.untouched import train_mode


class Training:
    """One training as far as it has come, an epoch at a time.

    Made, and used, inside `reproducible`: initial weights and dropout draw from torch's global
    stream, whose state is part of the training's own.

    Args:
        config: what to train.
        source: the data, loaded at `config.image_size`.
        device: where to train.

    Attributes:
        history: metrics of the epochs trained; see `fit`.
        policy: how samples are interpolated; it may be replaced between epochs.

    Raises:
        ValueError: configuration and data do not fit.

    Examples:
        >>> import core
        >>> from core.training.fit import reproducible
        >>> config = core.training.TrainingConfig("digits", "digits_cnn", core.NoMix(), epochs=2)
        >>> with reproducible(0, device="cpu", threads=1):
        ...     training = core.training.Training(config, core.data.load_source("digits"), "cpu")
        ...     training.epoch()["train_seconds"] > 0
        True
    """

    def __init__(self, config: TrainingConfig, source: Source, device: torch.device | str):
        self.config = config
        self.device = torch.device(device)
        self.history: list[Metrics] = []
        self._observer: Observer | None = None
        self._precision = Precision(config.precision, self.device)
        labels = self._load(source)
        self._size = len(labels)
        self._objective = Objective(config, labels, source.num_classes, self.device)

        def network() -> ImageClassifier:
            model = cast(ImageClassifier, build_network(config, source))
            self._precision.prepare(model)
            model.to(memory_format=_FORMATS[config.memory_format])  # type: ignore[call-overload]
            return model.to(self.device)

        self._model = network()
        self.policy = config.policy.build(network)
        trained = nn.ModuleList([self._model, self.policy.networks])
        self._optimizer = build_optimizer(config, trained)
        self._streams = RandomStreams(config.seed)
        self._histograms: list[list[int]] = []
        self._quantiles: list[float] = []
        self._schedule = LambdaSchedule(config.epochs)

    def _load(self, source: Source) -> Tensor:
        """Loads the images; returns the labels that it trains with, [N]."""
        self._data = prepare_data(self.config, source, self.device)
        analysis, epochs = self.config.analysis, self.config.epochs
        if analysis is not None:
            self._observer = Observer(analysis, self._data, source.num_classes, epochs)
        return self._data.train.labels

    def epoch(self) -> Metrics:
        """Trains the next epoch, evaluates on the meta-validation images, and returns its metrics.

        Raises:
            DivergenceError: the loss became NaN or infinite.
        """
        config, data, streams, begun = self.config, self._data, self._streams, time.perf_counter()
        mixes = len(self.history) < round(config.stop_mixing * config.epochs)
        policy = self.policy if mixes or config.policy.weights_samples else _UNMIXED
        size = len(data.train) - (len(data.meta) if config.equal_steps else 0)
        order = _training_order(config, data.train.labels, size, streams["order"])
        meta_batches = (
            data.meta.batches(
                whole_batches(len(data.meta), config.meta_batch_size, len(order), streams["meta"])
            )
            if policy.needs_meta_validation
            else iter(())
        )
        lam = LambdaStatistics()
        # Moved once an epoch.
        total = torch.zeros((), dtype=wide_dtype(self.device), device=self.device)
        meta_total, meta_stages = torch.zeros_like(total), 0
        samples = 0
        train_mode(self._model)
        batches = zip(order, data.train.batches(order, streams["augmentation"]), strict=True)
        for i, (indices, (images, labels)) in enumerate(batches):
            self._set_rate(i, len(order))
            batch = (data.transform.train(images, streams["augmentation"]), labels)
            meta = next(meta_batches, None)
            val_batch = None if meta is None else (data.transform.evaluate(meta[0]), meta[1])
            with self._precision.region():
                loss = self._objective.loss(self._model, batch[0], indices)
                interpolation = policy(
                    self._model,
                    self._optimizer,
                    batch,
                    val_batch,
                    generator=streams["policy"],
                    loss=loss,
                    indices=indices,
                )
                step = mixed_step(self._model, self._optimizer, batch, interpolation, loss=loss)
            lam.add(interpolation)
            if self._observer is not None:
                self._observer.step(indices, interpolation)
            total += step.loss.to(total.dtype) * len(labels)
            samples += (1 + self._objective.passes) * len(labels) + interpolation.extra_samples
            if step.meta_loss is not None:
                meta_total += step.meta_loss.to(total.dtype)
                meta_stages += 1
        return self._end_epoch(
            begun,
            steps=len(order),
            train_loss=float(total) / size,
            samples=samples,
            lam=lam,
            meta_loss=float(meta_total) / meta_stages if meta_stages else None,
            observe=self._observe,
            mixed=policy is not _UNMIXED,
        )

    def _set_rate(self, step: int, steps: int) -> None:
        """Sets the learning rate of step `step` of the epoch's `steps`, and tells the policy."""
        at, total = len(self.history) * steps + step, steps * self.config.epochs
        self.policy.at(at, total)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self.config, at, total)

    def _end_epoch(
        self,
        begun: float,
        *,
        steps: int,
        train_loss: float,
        samples: int,
        lam: LambdaStatistics,
        meta_loss: float | None,
        observe: Callable[[], Metrics],
        mixed: bool = True,
    ) -> Metrics:
        """Evaluates, checks that the training converges, and writes the epoch's metrics down.

        Args:
            begun: when the epoch began, by `time.perf_counter`.
            samples: sent forward in this epoch.
            observe: gives what else is to be said, once the training is seen to converge.
            mixed: False after the mixing has stopped.
        """
        config, number = self.config, len(self.history)
        before = self.history[-1] if self.history else {"samples_seen": 0.0, "train_seconds": 0.0}
        seconds = time.perf_counter() - begun + before["train_seconds"]
        with self._precision.region():
            validation = self._validate()
            check_convergence(
                number + 1, train_loss, validation.loss, lr=config.lr, history=self.history
            )
            metrics = {
                "epoch": float(number + 1),
                "train_loss": train_loss,
                "val_loss": validation.loss,
                "val_error": validation.error,
                "lr": learning_rate(config, number * steps, steps * config.epochs),
                "train_seconds": seconds,
                "samples_seen": before["samples_seen"] + samples,
                **lam.metrics(),
                **_numbers(self.policy.metrics()),
                **_numbers(observe()),
            }
        if meta_loss is not None:
            metrics["meta_loss"] = meta_loss
        self.history.append(metrics)
        self._histograms = [*self._histograms[:1], lam.histogram()]
        if mixed:
            self._quantiles = lam.quantile_function()
        self._schedule.add(number, lam, mixed)
        return metrics

    def _observe(self) -> Metrics:
        data, metrics = self._data, {}
        if not self.config.meta_in_training:
            metrics = self.policy.held_out_metrics(self._model, data.meta, data.transform)
        if self._observer is not None:
            with outside_autocast(self.device.type):  # what is measured is the float32 network
                metrics |= self._observer.epoch(len(self.history) + 1, self._model)
        return metrics

    def result(self) -> TrainingResult:
        """Returns what it has given so far, at least one epoch; reads the test images."""
        findings = None if self._observer is None else self._observer.findings(self._model)
        with self._precision.region():
            test = self._test()
            probabilities = self._predictions() if self.config.folds else None
        last = self.history[-1]
        return TrainingResult(
            test_error=test.error,
            test_top5_error=test.top5_error,
            val_error=last["val_error"],
            train_loss=last["train_loss"],
            train_seconds=last["train_seconds"],
            samples_seen=int(last["samples_seen"]),
            epochs=len(self.history),
            parameters=sum(p.numel() for p in self._model.parameters()),
            history=self.history,
            lam_histogram=self._histograms[-1],
            lam_histogram_first=self._histograms[0],
            lam_quantiles=self._quantiles,
            lam_schedule=self._schedule.complete(),
            scores=self._scores(),
            probabilities=probabilities,
            policy_parameters=sum(p.numel() for p in self.policy.networks.parameters()),
            findings=findings,
        )

    def _scores(self) -> list[float] | None:
        """Returns the policy's score of each training image; 0 of one that never came up."""
        scores = self.policy.scores
        if scores is None:
            return None
        unseen = max(0, self._size - len(scores))
        return _rounded(nn.functional.pad(scores, (0, unseen)))

    def _validate(self) -> Evaluation:
        return self._evaluated(self._data.meta)

    def _test(self) -> Evaluation:
        return self._evaluated(self._data.test)

    def _evaluated(self, images: ImageSet) -> Evaluation:
        adjustment = self._objective.adjustment
        return evaluate(self._model, images, self._data.transform, adjustment=adjustment)

    def _predictions(self) -> list[list[float]]:
        images, adjustment = self._data.held_out, self._objective.adjustment
        held_out = predict(self._model, images, self._data.transform, adjustment=adjustment)
        return [_rounded(row) for row in held_out]

    def state_dict(self) -> dict[str, Any]:
        """Returns all that the rest of the training depends on: tensors, some of them live, plain
        types."""
        cuda = self.device.type == "cuda"
        return {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "streams": self._streams.state_dict(),
            "policy": self.policy.state_dict(),
            "precision": self._precision.state_dict(),
            "rng": torch.get_rng_state(),
            "global_streams": global_streams(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if cuda else None,
            "history": self.history,
            "histograms": self._histograms,
            "quantiles": self._quantiles,
            "schedule": self._schedule.parts,
            "observer": None if self._observer is None else self._observer.state_dict(),
            "objective": self._objective.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads what `state_dict` gave. What `state` holds may be written to afterwards."""
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._streams.load_state_dict(state["streams"])
        self.policy.load_state_dict(state["policy"])
        self._precision.load_state_dict(state.get("precision", {}))  # older ones have none
        self._objective.load_state_dict(state.get("objective", {}))
        torch.set_rng_state(state["rng"].cpu())
        if "global_streams" in state:  # older ones have none
            set_global_streams(state["global_streams"])
        # None in a checkpoint that was written on the CPU.
        if self.device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.device)
        self.history, self._histograms = state["history"], state["histograms"]
        self._quantiles = state["quantiles"]
        self._schedule.parts = state.get("schedule", [])
        if self._observer is not None:
            self._observer.load_state_dict(state["observer"])


_UNMIXED = NoMix()

_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def _training_order(
    config: TrainingConfig, labels: Tensor, size: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Returns indices of the epoch's batches, `size` in all, of the images with these labels [N].

    A single image left over joins the batch before it: on its own it has no partner, and BatchNorm
    no variance where the feature maps are down to a pixel.
    """
    if config.sampling == "balanced":
        order = balanced_draws(labels, generator)
    else:
        order = torch.randperm(len(labels), generator=generator)
    batches = order[:size].split(config.batch_size)
    if len(batches) > 1 and len(batches[-1]) == 1 < config.batch_size:
        batches = (*batches[:-2], torch.cat(batches[-2:]))
    return batches


def whole_batches(size: int, batch: int, steps: int, generator: torch.Generator) -> list[Tensor]:
    """Returns positions of a batch for each step: reshuffled passes over `size` samples, whole
    batches only."""
    batch, order = min(batch, size), list[Tensor]()
    while len(order) < steps:
        shuffled = torch.randperm(size, generator=generator).split(batch)
        order += [rows for rows in shuffled if len(rows) == batch]
    return order[:steps]


def _rounded(values: Tensor) -> list[float]:
    """Rounds to five digits: what is stored of a large training set stays small."""
    return [float(f"{value:.5g}") for value in values.tolist()]


def _numbers(metrics: Mapping[str, Any]) -> Metrics:
    """Returns numbers of Python, whatever a policy counts in: checkpoints hold no others."""
    return {name: float(value) for name, value in metrics.items()}
