"""Fit one cell: the training loop, evaluation, per-epoch metrics, checkpoints, resume."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.analysis.observer import Observer
from core.data import Source, load_source
from core.evaluation import Evaluation, evaluate, predict
from core.models import ImageClassifier, build_model
from core.policies.adamixup.policy import AdaMixUp
from core.policies.protocol import Policy
from core.random_streams import RandomStreams
from core.training.checkpoint import checkpoints, save_checkpoint
from core.training.config import TrainingConfig
from core.training.epoch import train_epoch
from core.training.optimizers import build_optimizer
from core.training.prepared_data import prepare_data
from core.training.result import Metrics, TrainingResult

CHECKPOINT_SECONDS = 10.0
"""Training seconds between two checkpoints; the last epoch is always kept."""


def fit(
    config: TrainingConfig,
    *,
    source: Source | None = None,
    data_root: Path | None = None,
    directory: Path | None = None,
    device: torch.device | str = "cpu",
    threads: int = 1,
    on_epoch: Callable[[Metrics], None] | None = None,
) -> TrainingResult:
    """Train and evaluate one cell; go on from its checkpoint where there is one.

    The same configuration and seed give bit-identical numbers on the CPU, alone, in any process and
    after a resume. torch's global random stream and thread count are as before on return. The test
    images are used once, after the last epoch (in a semi-supervised training after each of the last
    20), and select nothing. A single image left over by the batch size joins the
    last batch.

    Args:
        config: what to train.
        source: the data, already loaded (at `config.image_size`); else loaded by name.
        data_root: where named data sets lie or are downloaded to.
        directory: for checkpoints, at most one every 10 s; None keeps none.
        device: where to train.
        threads: intra-op threads of torch; part of what makes CPU numbers reproducible.
        on_epoch: called for each epoch in order, those before a resume included, with epoch (from
            1), train_loss, val_loss, val_error (percent), lr, train_seconds and samples_seen
            (cumulative), lam_mean, lam_q05 to lam_q95, of learned policies lam_change,
            hypergradient_rms and meta_loss, those of `AdaMixUp.metrics` and, of meta-validation
            images that train nothing, `recognition`, and what `config.analysis` adds.

    Raises:
        DivergenceError: the loss became NaN or infinite.
        ValueError, FileNotFoundError: configuration or data are off.
        OSError: a checkpoint cannot be written.
    """
    if source is None:
        source = load_source(config.dataset, root=data_root, image_size=config.image_size)
    with reproducible(config.seed, device=device, threads=threads):
        training = _continued(config, source, device, directory)
        history = training.history
        for metrics in history:
            if on_epoch is not None:
                on_epoch(metrics)
        saved = history[-1]["train_seconds"] if history else 0.0
        for epoch in range(len(history), config.epochs):
            metrics = training.epoch()
            due = metrics["train_seconds"] - saved >= CHECKPOINT_SECONDS
            if directory is not None and (due or epoch + 1 == config.epochs):
                saved = metrics["train_seconds"]
                save_checkpoint(directory, {"config": config.to_dict(), **training.state_dict()})
            if on_epoch is not None:
                on_epoch(metrics)
        return training.result()


def start(config: TrainingConfig, source: Source, device: torch.device | str) -> Training:
    """The training that `config` describes, at its beginning; see `Training`."""
    if config.semi is None:
        return Training(config, source, device)
    # Here and not above: it builds on this module.
    from core.training.few_labels import SemiSupervisedTraining

    return SemiSupervisedTraining(config, source, device)


def _continued(
    config: TrainingConfig, source: Source, device: torch.device | str, directory: Path | None
) -> Training:
    """The training where its newest checkpoint left it, or else at its beginning.

    A whole file may still hold no state of this training: another version wrote it, or someone
    changed it. What does not load is passed over with a warning.
    """
    training = start(config, source, device)
    for state in checkpoints(directory, training.device) if directory is not None else ():
        if not isinstance(state, dict) or state.get("config") != config.to_dict():
            continue
        try:
            training.load_state_dict(state)
            return training
        except Exception as error:  # as many kinds as a state has parts
            warnings.warn(
                f"a checkpoint in {directory} is not one of this training ({error!r}) and is "
                "passed over",
                stacklevel=3,
            )
            torch.manual_seed(config.seed)
            training = start(config, source, device)  # half of it may have been loaded
    return training


@contextmanager
def reproducible(seed: int, *, device: torch.device | str, threads: int) -> Iterator[None]:
    """What is trained inside depends on the seed and the threads, and on nothing before it.

    torch's global random stream and thread count are as before afterwards.
    """
    device = torch.device(device)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads_before)


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
