"""Fit one cell: the training loop, evaluation, per-epoch metrics, checkpoints, resume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core.analysis.observer import Observer
from core.data import Source
from core.evaluation import Evaluation, evaluate, predict
from core.models import ImageClassifier, build_model
from core.policies.adamixup.policy import AdaMixUp
from core.policies.protocol import Policy
from core.random_streams import RandomStreams
from core.training.config import TrainingConfig
from core.training.epoch import train_epoch
from core.training.optimizers import build_optimizer
from core.training.prepared_data import prepare_data
from core.training.result import Metrics, TrainingResult


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
    """

    def __init__(self, config: TrainingConfig, source: Source, device: torch.device | str):
        self.config = config
        self.device = torch.device(device)
        self.history: list[Metrics] = []
        self._observer: Observer | None = None
        self._load(source)

        def network() -> ImageClassifier:
            return build_model(
                config.model,
                in_channels=source.in_channels,
                num_classes=source.num_classes,
                image_size=source.image_size,
                width=config.width,
            ).to(self.device)

        self._model = network()
        self.policy = config.policy.build(network)
        trained = nn.ModuleList([self._model, _networks(self.policy)])
        self._optimizer = build_optimizer(config, trained)
        self._streams = RandomStreams(config.seed)
        self._histograms: list[list[int]] = []
        self._quantiles: list[float] = []

    def _load(self, source: Source) -> None:
        self._data = prepare_data(self.config, source, self.device)
        analysis, epochs = self.config.analysis, self.config.epochs
        if analysis is not None:
            self._observer = Observer(analysis, self._data, source.num_classes, epochs)

    def epoch(self) -> Metrics:
        """Train the next epoch, evaluate on the meta-validation images; returns its metrics.

        Raises:
            DivergenceError: the loss became NaN or infinite.
        """
        metrics, lam = train_epoch(
            self.config,
            len(self.history),
            self._model,
            self._optimizer,
            self.policy,
            self._data,
            self._streams,
            self._observer,
            self.history,
        )
        self.history.append(metrics)
        self._histograms = [*self._histograms[:1], lam.histogram()]
        self._quantiles = lam.quantile_function()
        return metrics

    def result(self) -> TrainingResult:
        """What it has given so far, at least one epoch; reads the test images."""
        test = self._test()
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
            scores=None if self.policy.scores is None else _rounded(self.policy.scores),
            probabilities=self._predictions() if self.config.folds else None,
            policy_parameters=sum(p.numel() for p in _networks(self.policy).parameters()),
            findings=None if self._observer is None else self._observer.findings(self._model),
        )

    def _test(self) -> Evaluation:
        return evaluate(self._model, self._data.test, self._data.transform)

    def _predictions(self) -> list[list[float]]:
        held_out = predict(self._model, self._data.held_out, self._data.transform)
        return [_rounded(row) for row in held_out]

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the training depends on: tensors, some of them live, plain types."""
        cuda = self.device.type == "cuda"
        return {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "streams": self._streams.state_dict(),
            "policy": self.policy.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if cuda else None,
            "history": self.history,
            "histograms": self._histograms,
            "quantiles": self._quantiles,
            "observer": None if self._observer is None else self._observer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`. What `state` holds may be written to afterwards."""
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._streams.load_state_dict(state["streams"])
        self.policy.load_state_dict(state["policy"])
        torch.set_rng_state(state["rng"].cpu())
        # None in a checkpoint that was written on the CPU.
        if self.device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.device)
        self.history, self._histograms = state["history"], state["histograms"]
        self._quantiles = state["quantiles"]
        if self._observer is not None:
            self._observer.load_state_dict(state["observer"])


def _networks(policy: Policy) -> nn.ModuleList:
    """The networks of a policy that learn with the model; of most policies none."""
    return policy.networks if isinstance(policy, AdaMixUp) else nn.ModuleList()


def _rounded(values: Tensor) -> list[float]:
    """To five digits: what is stored of a large training set stays small."""
    return [float(f"{value:.5g}") for value in values.tolist()]
