"""Population based training of α (Jaderberg et al. 2017), small and deterministic.

Ray Tune has its own, which is not used here: its members run as separate trials that exchange
weights whenever their results happen to arrive, so that neither two runs nor a run that was killed
and started again copy the same members; and its decisions live in Tune's experiment state, which a
study here does without. Here a population is one cell. A worker trains the members in turns,
segment by segment, and writes one checkpoint for all; every decision follows from the seed and the
errors alone.

The cost of a population is the sum over its members. Its incumbent after each segment is the best
member as it stands, at a learning rate that has not come down yet: an honest anytime result, if a
harsh one. For that figure the test images are read once a segment, for the best member alone; they
select nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from core.policies import Beta
from core.training.checkpoint import load_checkpoint, save_checkpoint
from core.training.config import TrainingConfig
from core.training.fit import reproducible
from core.training.result import DivergenceError, Metrics
from core.training.training import Training
from hpo.cells.population import Population
from hpo.cells.result import PopulationResult
from hpo.search.spaces import BETA_ALPHA

if TYPE_CHECKING:
    from core.data import Source

_DEAD = float("inf")
"""Error of a member that diverged; infinite, it is the first to be replaced."""


@dataclass(frozen=True)
class Heir:
    """An heir is what a member goes on with: whose training, and which α."""

    parent: int
    alpha: float


def first_alphas(population: Population, seed: int) -> list[float]:
    """Returns α of each member at the start, drawn evenly on the logarithmic scale it is searched
    on."""
    bounds = BETA_ALPHA["alpha"]
    random = np.random.default_rng((seed, 0))
    drawn = random.uniform(np.log(bounds.low), np.log(bounds.high), population.members)
    return [float(alpha) for alpha in np.exp(drawn)]


def select(
    population: Population, errors: Sequence[float], alphas: Sequence[float], seed: int, after: int
) -> list[Heir]:
    """Returns for each member what it goes on with, by truncation selection.

    Args:
        population: how many are replaced, how far α moves, and how likely mixing stops.
        errors: meta-validation error of each member; of equal ones the first is the better.
        alphas: α of each.
        seed: of the draws.
        after: segments trained so far, from 1; draws anew after each.
    """
    bounds = BETA_ALPHA["alpha"]
    random = np.random.default_rng((seed, after))
    ranked = sorted(range(len(errors)), key=lambda member: (errors[member], member))
    alive = [member for member in ranked if errors[member] < _DEAD]
    best = alive[: population.replaced]
    worst = {*ranked[-population.replaced :], *(set(ranked) - set(alive))} - set(best)
    heirs = [Heir(member, alpha) for member, alpha in enumerate(alphas)]
    for member in sorted(worst):
        parent = best[int(random.integers(len(best)))]
        step = population.factor if random.random() < 0.5 else 1 / population.factor
        alpha = min(max(alphas[parent] * step, bounds.low), bounds.high)
        if population.rest and random.random() < population.rest:
            alpha = 0.0
        heirs[member] = Heir(parent, alpha)
    return heirs


@dataclass
class _Standing:
    """A population between two segments; plain types and tensors, the form of a checkpoint."""

    states: list[dict[str, Any] | None]
    alphas: list[float]
    errors: list[float]
    lineage: list[list[list[float]]] = field(default_factory=list)
    history: list[Metrics] = field(default_factory=list)
    epochs: int = 0
    result: dict[str, Any] | None = None


def fit_population(
    config: TrainingConfig,
    population: Population,
    *,
    source: Source,
    directory: Path | None = None,
    device: torch.device | str = "cpu",
    threads: int = 1,
    on_epoch: Callable[[Metrics], None] | None = None,
) -> PopulationResult:
    """Trains a population; the counterpart of `core.training.fit`.

    The same configuration and seed give bit-identical numbers on the CPU, after a resume too. All
    members start from the same weights and see the same order of data.

    Args:
        config: the training of a member; α of its Beta policy is replaced, all else of it kept.
        population: how many members, and how they are selected.
        source: the data, loaded at `config.image_size`.
        directory: for checkpoints, one a segment; None keeps none.
        device: where to train.
        threads: intra-op threads of torch.
        on_epoch: called after each segment in order, those before a resume included, with `epoch`
            counting segments from 1: metrics of the best member, its `alpha` and `test_error`; over
            all members train_seconds, samples_seen and `epochs_trained`, cumulative.

    Returns:
        The result of the best member at the end, with the cost and the epochs of all members, and
        the segments as `history`.

    Raises:
        DivergenceError: all members diverged.
        ValueError: the policy is no Beta.
        OSError: a checkpoint cannot be written.
    """
    _with_alpha(config, 1.0)
    identity = {"config": config.to_dict(), "population": population.to_dict()}
    with reproducible(config.seed, device=device, threads=threads):
        training = Training(config, source, device)
        saved = load_checkpoint(directory, training.device) if directory is not None else None
        if saved is not None and {name: saved.get(name) for name in identity} == identity:
            standing = _Standing(**saved["standing"])
        else:
            alphas = first_alphas(population, config.seed)
            # One object in all: each member's turn starts with a copy.
            states: list[dict[str, Any] | None] = [deepcopy(training.state_dict())] * len(alphas)
            standing = _Standing(states, alphas, [0.0] * len(alphas))
        for metrics in standing.history:
            if on_epoch is not None:
                on_epoch(metrics)
        segments = -(-config.epochs // population.segment)
        for segment in range(len(standing.history), segments):
            metrics = _segment(training, population, standing, segment)
            if directory is not None:
                save_checkpoint(directory, {**identity, "standing": vars(standing)})
            if on_epoch is not None:
                on_epoch(metrics)
    assert standing.result is not None
    last = standing.history[-1]
    spent = {
        "train_seconds": last["train_seconds"],
        "samples_seen": int(last["samples_seen"]),
        "epochs": standing.epochs,
        "history": standing.history,
        "lineage": standing.lineage,
    }
    return PopulationResult.from_dict({**standing.result, **spent})


def _segment(
    training: Training, population: Population, standing: _Standing, segment: int
) -> Metrics:
    """Selects, then trains every member for a segment; returns the metrics after it."""
    seed = training.config.seed
    heirs = [Heir(member, alpha) for member, alpha in enumerate(standing.alphas)]
    if segment:
        heirs = select(population, standing.errors, standing.alphas, seed, segment)
    states = [standing.states[heir.parent] for heir in heirs]
    standing.alphas = [heir.alpha for heir in heirs]
    standing.lineage.append([[heir.alpha, heir.parent] for heir in heirs])
    seconds, samples = _spent(standing.history)
    until = min((segment + 1) * population.segment, training.config.epochs)
    for member, (state, heir) in enumerate(zip(states, heirs, strict=True)):
        standing.states[member], standing.errors[member] = None, _DEAD
        if state is None:
            continue
        training.load_state_dict(deepcopy(state))
        training.policy = _with_alpha(training.config, heir.alpha)
        seconds_before, samples_before = _spent(training.history)
        try:
            while len(training.history) < until:
                standing.epochs += 1  # the one in which a member fails was trained too
                training.epoch()
            standing.states[member] = deepcopy(training.state_dict())
            standing.errors[member] = training.history[-1]["val_error"]
        except DivergenceError:
            pass
        seconds_after, samples_after = _spent(training.history)
        seconds += seconds_after - seconds_before
        samples += samples_after - samples_before
    best = min(range(population.members), key=lambda member: (standing.errors[member], member))
    state = standing.states[best]
    if state is None:
        raise DivergenceError(
            f"all {population.members} members diverged by epoch {until}; lower the learning rate "
            f"(now {training.config.lr})",
            standing.history,
            standing.epochs - 1,
        )
    training.load_state_dict(deepcopy(state))
    standing.result = training.result().to_dict()
    metrics = {
        **training.history[-1],
        "epoch": float(segment + 1),
        "train_seconds": seconds,
        "samples_seen": samples,
        "epochs_trained": float(standing.epochs),
        "alpha": standing.alphas[best],
        "test_error": standing.result["test_error"],
    }
    standing.history.append(metrics)
    return metrics


def _with_alpha(config: TrainingConfig, alpha: float) -> Beta:
    if not isinstance(config.policy, Beta):
        raise ValueError(f"a population tunes α of a beta policy, got {config.policy.kind}")
    return replace(config.policy, alpha=alpha)


def _spent(history: Sequence[Metrics]) -> tuple[float, float]:
    """Returns training seconds and samples so far."""
    return (history[-1]["train_seconds"], history[-1]["samples_seen"]) if history else (0.0, 0.0)
