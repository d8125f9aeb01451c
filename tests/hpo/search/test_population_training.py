from __future__ import annotations

import math
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from core.data import Source
from core.policies import Beta, NoMix
from core.training.config import TrainingConfig
from core.training.fit import fit, reproducible
from core.training.result import DivergenceError, TrainingResult
from core.training.training import Training
from hpo.cells.population import Population
from hpo.cells.result import PartialResult
from hpo.search import population_training as module
from hpo.search.population_training import first_alphas, fit_population, select
from tests.support.digit_trainings import TINY, numbers
from tests.support.processes import Killed
from tests.support.results import result

BETA = Beta(alpha=1.0)
# The network has dropout, which draws from the process's global stream.
CONFIG = replace(TINY, policy=BETA, seed=3, meta_size=100, batch_size=30, lr=0.05, flip=False)


# Selection


def test_the_worst_go_on_from_the_best_with_another_alpha() -> None:
    """Errors 50 10 30 40 20: two of five are replaced, 0 and 3, by copies of 1 or 4."""
    population = Population(members=5, quantile=0.4, factor=1.5)
    alphas = [0.1, 0.2, 0.4, 0.8, 1.6]
    drawn: Counter[tuple[int, int, float]] = Counter()
    for seed in range(400):
        heirs = select(population, [50, 10, 30, 40, 20], alphas, seed, 1)
        for member in (1, 2, 4):
            assert (heirs[member].parent, heirs[member].alpha) == (member, alphas[member])
        for member in (0, 3):
            heir = heirs[member]
            drawn[member, heir.parent, round(heir.alpha / alphas[heir.parent], 6)] += 1
    assert drawn.keys() == {(m, p, f) for m in (0, 3) for p in (1, 4) for f in (1.5, 0.666667)}
    # 400 draws of four equally likely ones: 100 ± 5 standard deviations of 8.7.
    assert all(56 < count < 144 for count in drawn.values())


def test_draws_are_of_the_seed_and_the_segment() -> None:
    population = Population(members=20, quantile=0.5)
    errors, alphas = [float(m) for m in range(20)], [1.0] * 20
    first = select(population, errors, alphas, 7, 1)
    assert select(population, errors, alphas, 7, 1) == first
    assert select(population, errors, alphas, 7, 2) != first
    assert select(population, errors, alphas, 8, 1) != first


def test_of_equal_errors_the_first_is_the_better() -> None:
    heirs = select(Population(members=4, quantile=0.25), [9.0] * 4, [1.0] * 4, 0, 1)
    assert [heir.parent for heir in heirs] == [0, 1, 2, 0]


def test_alpha_stays_within_its_bounds() -> None:
    population = Population(members=2, factor=100.0)
    results = {
        select(population, [1.0, 2.0], [alpha, 1.0], seed, 1)[1].alpha
        for alpha in (0.06, 7.0)
        for seed in range(20)
    }
    assert {round(alpha, 6) for alpha in results} == {0.05, 6.0, 0.07, 8.0}


def test_a_copy_may_stop_mixing_and_its_own_copy_may_begin_again() -> None:
    """Of 400 copies of a parent that rests a quarter rest, ± 5 standard deviations of 8.7; the
    others mix at the lowest α. The draws of a population that knows no rest stay as they were."""
    population = Population(members=2, rest=0.25)
    for start, otherwise in ((0.0, {0.05}), (1.0, {1.2, 1 / 1.2})):
        found = [select(population, [1.0, 2.0], [start, 1.0], s, 1)[1].alpha for s in range(400)]
        assert 56 < found.count(0.0) < 144
        assert {*found} - {0.0} == otherwise
    assert "rest" not in Population(members=2).to_dict()
    assert Population(**population.to_dict()) == population


def test_all_members_that_diverged_are_replaced_by_the_living() -> None:
    """One of five would be replaced; three diverged, and the best of the two others is copied."""
    infinite = float("inf")
    errors = [infinite, 20.0, infinite, 10.0, infinite]
    heirs = select(Population(members=5, quantile=0.2), errors, [1.0] * 5, 0, 1)
    assert [heir.parent for heir in heirs] == [3, 1, 3, 3, 3]


def test_the_first_alphas_spread_over_the_range_on_a_log_scale() -> None:
    alphas = first_alphas(Population(members=4000), seed=1)
    assert alphas == first_alphas(Population(members=4000), seed=1)
    assert alphas != first_alphas(Population(members=4000), seed=2)
    assert 0.05 <= min(alphas) < 0.051
    assert 7.9 < max(alphas) <= 8.0
    logs = sorted(map(math.log, alphas))
    assert logs[2000] == pytest.approx((math.log(0.05) + math.log(8)) / 2, abs=0.2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"members": 1}, "at least 2 members, got 1"),
        ({"segment": 0}, "segment must be at least 1, got 0"),
        ({"quantile": 0.6}, r"quantile must lie in \(0, 0.5\], got 0.6"),
        ({"factor": 1.0}, "factor must be above 1, got 1.0"),
        ({"rest": 1.0}, r"rest must lie in \[0, 1\), got 1.0"),
    ],
)
def test_impossible_populations_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Population(**values)


# A toy whose lineage can be computed by hand


class Toy:
    """A training whose error falls by its α in each epoch, from 10; an epoch costs 2 s."""

    diverges_below = 0.0

    def __init__(self, config: TrainingConfig, *_: Any):
        self.config, self.device = config, torch.device("cpu")
        self.policy = config.policy.build()
        self.history: list[dict[str, float]] = []
        self.error = 10.0

    def epoch(self) -> None:
        alpha = self.policy.alpha  # type: ignore[union-attr]
        if alpha < self.diverges_below:
            raise DivergenceError("it diverged", self.history)
        self.error -= alpha
        done = len(self.history) + 1
        self.history.append(
            {"val_error": self.error, "train_seconds": 2.0 * done, "samples_seen": 5.0 * done}
        )

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "error": self.error}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history, self.error = state["history"], state["error"]

    def result(self) -> TrainingResult:
        return result(test_error=self.error + 100, val_error=self.error)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> type[Toy]:
    class Own(Toy):
        pass

    monkeypatch.setattr(module, "Training", Own)
    monkeypatch.setattr(module, "first_alphas", lambda *_: [0.1, 0.2, 0.5, 1.0])
    return Own


def test_the_lineage_of_a_toy_is_as_computed_by_hand(toy: type[Toy]) -> None:
    """Four members, two epochs a segment, the worst goes on from the best, α doubled or halved.

    After 2 epochs errors are 9.8 9.6 9.0 8.0. Member 0 takes member 3's training with α 2 or 0.5:
    8 − 2·2 = 4 or 8 − 1 = 7; the others go to 9.2, 8.0, 6.0. Then member 1 (9.2) is the worst.
    """
    population = Population(members=4, segment=2, quantile=0.25, factor=2.0)
    config = replace(CONFIG, epochs=5)
    outcome = fit_population(config, population, source=None)  # type: ignore[arg-type]
    first, second, third = outcome.lineage
    assert first == [[0.1, 0], [0.2, 1], [0.5, 2], [1.0, 3]]
    assert second[1:] == first[1:]
    doubled = second[0] == [2.0, 3]
    assert doubled or second[0] == [0.5, 3]
    errors = [4.0 if doubled else 7.0, 9.2, 8.0, 6.0]
    best = 0 if doubled else 3
    assert third[0] == [second[0][0], 0]
    assert third[1] in ([2 * second[best][0], best], [second[best][0] / 2, best])
    assert third[2:] == [[0.5, 2], [1.0, 3]]
    segments = outcome.history
    assert [m["val_error"] for m in segments[:2]] == [8.0, pytest.approx(errors[best])]
    # The fifth epoch is a segment of its own: each error falls by the α of its member.
    lasts = [errors[int(parent)] - alpha for alpha, parent in third]
    assert segments[2]["val_error"] == pytest.approx(min(lasts))
    assert segments[2]["alpha"] == third[lasts.index(min(lasts))][0]
    assert [m["test_error"] - m["val_error"] for m in segments] == [100, 100, 100]
    # The sum over four members, whoever copied whom.
    assert [m["epochs_trained"] for m in segments] == [8, 16, 20]
    assert [m["train_seconds"] for m in segments] == [16, 32, 40]
    assert [m["samples_seen"] for m in segments] == [40, 80, 100]
    assert (outcome.epochs, outcome.train_seconds, outcome.samples_seen) == (20, 40, 100)
    assert outcome.test_error == segments[2]["test_error"]


def test_a_member_that_diverges_is_paid_for_and_replaced(toy: type[Toy]) -> None:
    toy.diverges_below = 0.3
    population = Population(members=4, segment=2, quantile=0.25, factor=1.01)
    outcome = fit_population(CONFIG, population, source=None)  # type: ignore[arg-type]
    assert [parent for _, parent in outcome.lineage[1]] == [3, 3, 2, 3]
    # An epoch each of the two that failed, two of the others; then two of all four.
    assert [m["epochs_trained"] for m in outcome.history] == [6, 14]
    assert [m["train_seconds"] for m in outcome.history] == [8, 24]


def test_when_all_diverge_it_says_so(toy: type[Toy]) -> None:
    toy.diverges_below = 3.0
    with pytest.raises(DivergenceError, match="all 4 members diverged by epoch 2; lower"):
        fit_population(CONFIG, Population(members=4), source=None)  # type: ignore[arg-type]


def test_when_all_diverge_late_what_they_have_trained_is_paid_for(toy: type[Toy]) -> None:
    """Two members for two segments of two epochs, then both fail in the first epoch of the third:
    8 epochs, and 2 that failed, of which the last is counted apart as that of any training."""
    toy.diverges_below = -1.0
    original = toy.epoch

    def fails_after_four(self: Toy) -> None:
        if len(self.history) == 4:
            raise DivergenceError("it diverged", self.history)
        original(self)

    toy.epoch = fails_after_four  # type: ignore[method-assign]
    population = Population(members=4, segment=2, quantile=0.25)
    with pytest.raises(DivergenceError) as caught:
        fit_population(replace(CONFIG, epochs=6), population, source=None)  # type: ignore[arg-type]
    error = pickle.loads(pickle.dumps(caught.value))
    partial = PartialResult.of(error.history, error.epochs)
    assert (len(partial.history), partial.epochs) == (2, 4 * 4 + 4 - 1)
    assert partial.train_seconds == 32.0


# Real trainings


@pytest.mark.parametrize("per_sample", [False, True])
def test_without_a_selection_members_are_ordinary_trainings(
    source: Source, per_sample: bool
) -> None:
    population, policy = Population(members=3, segment=4), replace(BETA, per_sample=per_sample)
    outcome = fit_population(replace(CONFIG, policy=policy), population, source=source)
    alphas = [alpha for alpha, _ in outcome.lineage[0]]
    alone = [
        fit(replace(CONFIG, policy=replace(policy, alpha=alpha)), source=source) for alpha in alphas
    ]
    best = min(alone, key=lambda training: training.val_error)
    assert len({training.val_error for training in alone}) > 1
    [segment] = outcome.history
    assert segment["alpha"] == alphas[alone.index(best)]
    for name in ("test_error", "val_error", "train_loss", "lam_histogram", "lam_histogram_first"):
        assert getattr(outcome, name) == getattr(best, name)
    assert outcome.samples_seen == sum(training.samples_seen for training in alone)
    assert segment["val_error"] == best.val_error
    assert segment["test_error"] == best.test_error


def test_a_copy_goes_on_from_its_parents_weights_optimizer_and_streams(source: Source) -> None:
    """The same by training each line of descent from its start, in a process of its own kind."""
    population = Population(members=3, segment=2, quantile=0.3)
    outcome = fit_population(CONFIG, population, source=source)
    first, second = outcome.lineage
    assert sum(int(parent) != member for member, (_, parent) in enumerate(second)) == 1
    ends = []
    for alpha, parent in second:
        with reproducible(CONFIG.seed, device="cpu", threads=1):
            training = Training(CONFIG, source, "cpu")
            for each in [first[int(parent)][0]] * 2 + [alpha] * 2:
                training.policy = replace(BETA, alpha=each).build()
                training.epoch()
            ends.append(training.result())
    best = min(ends, key=lambda training: training.val_error)
    assert (outcome.val_error, outcome.train_loss) == (best.val_error, best.train_loss)
    assert outcome.test_error == best.test_error


def test_killed_after_any_segment_it_ends_the_same(source: Source, tmp_path: Path) -> None:
    population = Population(members=3, segment=1)
    config = replace(CONFIG, epochs=3)
    stated: list[dict[str, float]] = []
    undisturbed = fit_population(config, population, source=source, on_epoch=stated.append)
    assert stated == undisturbed.history
    assert [m["epoch"] for m in stated] == [1, 2, 3]
    lives, most, again = 1, 0, []

    def mortal(metrics: dict[str, float]) -> None:
        nonlocal most
        again.append(metrics)
        if metrics["epoch"] > most:
            most = int(metrics["epoch"])
            raise Killed

    while True:
        again.clear()
        try:
            outcome = fit_population(
                config, population, source=source, directory=tmp_path, on_epoch=mortal
            )
            break
        except Killed:
            lives += 1
            assert lives < 10
    assert lives == 4
    assert numbers(outcome) == numbers(undisturbed)
    assert again == outcome.history


def test_a_checkpoint_of_another_population_is_passed_over(source: Source, tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=2)
    fit_population(config, Population(members=2, segment=1), source=source, directory=tmp_path)
    other = Population(members=2, segment=1, factor=3.0)
    result = fit_population(config, other, source=source, directory=tmp_path)
    assert numbers(result) == numbers(fit_population(config, other, source=source))


def test_nothing_outside_moves(source: Source) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fit_population(replace(CONFIG, epochs=1), Population(members=2), source=source)
    assert torch.equal(torch.get_rng_state(), before)


def test_it_tunes_beta_alone(source: Source) -> None:
    config = replace(CONFIG, policy=NoMix())
    with pytest.raises(ValueError, match="tunes α of a beta policy, got none"):
        fit_population(config, Population(), source=source)
