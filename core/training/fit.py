"""Fit one cell: go on from its checkpoint, train epoch by epoch, keep checkpoints, evaluate."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from core.data import Source, load_source
from core.random_streams import seed_global_streams, seeded, streams_kept
from core.training.checkpoint import checkpoints, save_checkpoint
from core.training.config import TrainingConfig
from core.training.defaults import torchs_defaults
from core.training.few_labels import SemiSupervisedTraining
from core.training.freed_memory import keep_freed_memory
from core.training.result import Metrics, TrainingResult
from core.training.training import Training

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
    """Trains and evaluates one cell, and goes on from its checkpoint where there is one.

    The same configuration and seed give bit-identical numbers on the CPU, alone, in any process and
    after a resume. The global random streams (torch's, Python's, NumPy's) and thread count are as
    before on return. The test images are used once, after the last epoch (in a semi-supervised
    training after each of the last 20), and select nothing. A single image left over by the batch
    size joins the last batch.

    Args:
        config: what to train.
        source: the data, already loaded (at `config.image_size`); else loaded by name.
        data_root: where named data sets lie or are downloaded to.
        directory: for checkpoints, at most one every 10 s; None keeps none.
        device: where to train.
        threads: intra-op threads of torch; part of what makes CPU numbers reproducible.
        on_epoch: called for each epoch in order, those before a resume included. It may draw from
            global random streams, and change the dictionary that it gets, which has epoch (from
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
            _tell(on_epoch, metrics, training.device)
        saved = history[-1]["train_seconds"] if history else 0.0
        for epoch in range(len(history), config.epochs):
            metrics = training.epoch()
            due = metrics["train_seconds"] - saved >= CHECKPOINT_SECONDS
            if directory is not None and (due or epoch + 1 == config.epochs):
                saved = metrics["train_seconds"]
                save_checkpoint(directory, {"config": config.to_dict(), **training.state_dict()})
            _tell(on_epoch, metrics, training.device)
        return training.result()


def _tell(
    on_epoch: Callable[[Metrics], None] | None, metrics: Metrics, device: torch.device
) -> None:
    if on_epoch is not None:
        with streams_kept(device):
            on_epoch(dict(metrics))


def start(config: TrainingConfig, source: Source, device: torch.device | str) -> Training:
    """Returns the training that `config` describes, at its beginning; see `Training`."""
    if config.semi is None:
        return Training(config, source, device)
    return SemiSupervisedTraining(config, source, device)


def _continued(
    config: TrainingConfig, source: Source, device: torch.device | str, directory: Path | None
) -> Training:
    """Returns the training where its newest checkpoint left it, or else at its beginning.

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
            seed_global_streams(config.seed)
            training = start(config, source, device)  # half of it may have been loaded
    return training


@contextmanager
def reproducible(seed: int, *, device: torch.device | str, threads: int) -> Iterator[None]:
    """What is trained inside depends on the seed and the threads, and on nothing before it.

    The global random streams (torch's, Python's, NumPy's) and torch's thread count are as before
    afterwards. Gradients and the default dtype are those of `torchs_defaults`. On the CPU, what is
    freed stays with the process (`keep_freed_memory`).
    """
    device = torch.device(device)
    if device.type == "cpu":
        keep_freed_memory()
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torchs_defaults(), seeded(seed, device):
            yield
    finally:
        torch.set_num_threads(threads_before)
