"""Scores by hand on a linear model, what is kept from step to step, and what scores are for."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn, optim

import core.meta.stage as module
from core.meta.reading import DEFAULT, PAPER, Reading
from core.meta.validation_gradient import ValidationGradient
from core.mixing.area import AreaMixing
from core.mixing.batch import draw_beta, draw_partners
from core.mixing.interpolation import Interpolation
from core.mixing.real_step import mixed_step
from core.policies import ScoresConfig
from core.policies.learned import Learned
from core.policies.persistent_scores import SCORES, PersistentScores, lowest_scores
from core.training.checkpoint import load_checkpoint
from core.training.config import TrainingConfig
from core.training.fit import fit
from core.training.prepared_data import draw_labels
from tests.support.digit_trainings import digits
from tests.support.losses import brier

TRAIN, N, M = 7, 9, 4
"""Training set, batch and validation batch: a batch of 9 out of 7 samples has repeats."""


def batch_of(s: SimpleNamespace, t: int, **options: Any) -> tuple[SimpleNamespace, Tensor]:
    """Data and indices of step t."""
    r = torch.Generator().manual_seed(900 + t)
    return s.toy.make_data(N, M, seed=50 + t, **options), torch.randint(TRAIN, (N,), generator=r)


def ask(s: SimpleNamespace, policy: Any, t: int, **more: Any) -> Interpolation:
    """Returns the answer for batch t; its draws depend on t alone."""
    d, indices = batch_of(s, t)
    given: Interpolation = policy(
        s.net,
        s.optimizer,
        d.batch,
        more.pop("val_batch", d.val_batch),
        generator=torch.Generator().manual_seed(t),
        indices=more.pop("indices", indices),
        **more,
    )
    return given


# ------------------------------------------------------------------------------- by another road


@dataclass
class Slow:
    """The same in NumPy, sample by sample, for softmax regression and integer labels."""

    reading: Reading
    scores: dict[int, float] = field(default_factory=dict)

    def lam(self, epsilon: np.ndarray, first: Sequence[int], second: Sequence[int]) -> np.ndarray:
        s = [self.scores.get(i, 0.0) - self.scores.get(j, 0.0) for i, j in zip(first, second)]  # noqa: B905
        return np.asarray(1 / (1 + np.exp(-(epsilon + np.array(s)))))

    def learn(
        self, slope: np.ndarray, lam: np.ndarray, first: Sequence[int], second: Sequence[int]
    ) -> None:
        if self.reading.gradient == "logit":
            slope = slope * lam * (1 - lam)
        if self.reading.scale == "rms":
            slope = slope / math.sqrt(sum(slope**2) / len(slope))
        elif self.reading.scale == "sum":
            slope = slope * len(slope)
        elif self.reading.scale == "sign":
            slope = np.sign(slope)
        for i, j, move in zip(first, second, self.reading.step_size * slope, strict=True):
            self.scores[i] = self.scores.get(i, 0.0) - move
            self.scores[j] = self.scores.get(j, 0.0) + move


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def slopes(net: nn.Linear, d: SimpleNamespace, lam: np.ndarray, partner: np.ndarray) -> np.ndarray:
    """d(meta loss)/d(lam_i) by differences; gradient of the inner loss in closed form."""
    w, b = net.weight.detach().numpy(), net.bias.detach().numpy()
    (x, y), (x_val, y_val) = ([t.numpy() for t in part] for part in (d.batch, d.val_batch))
    y = np.eye(len(b))[y]

    def meta_loss(lam: np.ndarray) -> float:
        weight = lam[:, None]
        mixed = weight * x + (1 - weight) * x[partner]
        target = weight * y + (1 - weight) * y[partner]
        error = (softmax(mixed @ w.T + b) - target) / len(x)
        p = softmax(x_val @ (w - 0.2 * error.T @ mixed).T + b - 0.2 * error.sum(0))
        return float(-np.log(p[range(len(y_val)), y_val]).mean())

    h = 1e-5
    steps = h * np.eye(len(lam))
    return np.array([(meta_loss(lam + s) - meta_loss(lam - s)) / (2 * h) for s in steps])


READINGS = {
    "default": SCORES,
    "sign": replace(SCORES, scale="sign", step_size=0.5),
    "sum": replace(SCORES, scale="sum", step_size=30.0),
    "lam": replace(SCORES, gradient="lam", step_size=1.5),
    "u-shaped": replace(SCORES, init_alpha=0.3),
}


@pytest.mark.parametrize(
    ("name", "every", "permute"),
    [
        *((name, 1, False) for name in READINGS),
        *(("default", *how) for how in ((1, True), (3, False), (3, True))),
    ],
)
def test_by_hand_on_a_linear_model(
    name: str, every: int, permute: bool, toy: SimpleNamespace
) -> None:
    """Seven steps of training, meta stages at each or at 0, 3 and 6; momentum stays outside."""
    reading = READINGS[name]
    net = nn.Linear(4, toy.CLASSES).double()
    optimizer = optim.SGD(net.parameters(), lr=0.2, momentum=0.9, weight_decay=0.01)
    policy, slow = PersistentScores(reading, every=every, permute=permute), Slow(reading)
    s = SimpleNamespace(net=net, optimizer=optimizer, toy=toy)
    for t in range(7):
        d, indices = batch_of(s, t)
        given = ask(s, policy, t)
        r = torch.Generator().manual_seed(t)
        lam_init = draw_beta(N, reading.init_alpha, generator=r, dtype=torch.float64)
        partner = draw_partners(N, generator=r)
        assert torch.equal(given.lam_init, lam_init)
        assert torch.equal(given.partner, partner)
        epsilon = np.log(lam_init.numpy() / (1 - lam_init.numpy()))
        first, second = indices.tolist(), indices[partner].tolist()
        lam = slow.lam(epsilon, first, second)
        assert (given.hypergradient is None) == (given.meta_loss is None) == bool(t % every)
        if t % every == 0:
            slope = slopes(net, d, lam, partner.numpy())
            assert given.hypergradient is not None
            np.testing.assert_allclose(given.hypergradient.numpy(), slope, rtol=1e-4, atol=1e-8)
            if permute:
                slope = slope[draw_partners(N, generator=r).numpy()]
            slow.learn(slope, lam, first, second)
        expected = [slow.scores.get(i, 0.0) for i in range(len(policy.scores))]
        np.testing.assert_allclose(policy.scores.numpy(), expected, rtol=1e-4, atol=1e-5)
        moved = slow.lam(epsilon, first, second)
        np.testing.assert_allclose(given.lam.numpy(), moved, rtol=1e-4, atol=1e-6)
        assert given.change is not None
        np.testing.assert_allclose(
            given.change.numpy(), moved - lam_init.numpy(), rtol=1e-3, atol=1e-6
        )
        assert given.extra_samples == (0 if t % every else N + M)
        mixed_step(net, optimizer, d.batch, given)
    assert max(map(abs, slow.scores.values())) > 0.1


def others(policy: PersistentScores) -> list[int]:
    """Whose score each sample is mixed by, read off the scores, all of them different."""
    ours, shown = policy.state_dict()["scores"].tolist(), policy.scores.tolist()
    assert len(set(ours)) == len(ours)
    return [ours.index(value) for value in shown]


@pytest.mark.parametrize("every", [1, 3])
def test_in_a_placebo_each_is_mixed_by_the_learned_score_of_another(
    every: int, toy: SimpleNamespace
) -> None:
    """Scores are learned truly, at the λ that they give; the real batch has those of others."""
    net = nn.Linear(4, toy.CLASSES).double()
    optimizer = optim.SGD(net.parameters(), lr=0.2)
    policy, slow = PersistentScores(every=every, placebo=True), Slow(SCORES)
    s, seen = SimpleNamespace(net=net, optimizer=optimizer, toy=toy), set()
    for t in range(7):
        d, indices = batch_of(s, t)
        indices[:TRAIN] = torch.arange(TRAIN)  # all of them, so that none joins later
        given = ask(s, policy, t, indices=indices)
        lam_init, partner = given.lam_init.numpy(), given.partner
        epsilon = np.log(lam_init / (1 - lam_init))
        first, second = indices.tolist(), indices[partner].tolist()
        if t % every == 0:
            lam = slow.lam(epsilon, first, second)
            slow.learn(slopes(net, d, lam, partner.numpy()), lam, first, second)
        learned = [slow.scores[i] for i in range(TRAIN)]
        remaining = policy.state_dict()["scores"].numpy()
        np.testing.assert_allclose(remaining, learned, rtol=1e-4, atol=1e-5)
        other = others(policy)
        seen.add(tuple(other))
        moved = slow.lam(epsilon, [other[i] for i in first], [other[i] for i in second])
        np.testing.assert_allclose(given.lam.numpy(), moved, rtol=1e-4, atol=1e-6)
        mixed_step(net, optimizer, d.batch, given)
    [other] = seen  # always the same
    at, cycle = 0, []
    for _ in range(TRAIN):
        at = other[at]
        cycle.append(at)
    assert sorted(cycle) == list(range(TRAIN))  # one cycle through all: none is its own


def test_who_is_seen_later_joins_the_placebo_and_the_others_stay(setup: SimpleNamespace) -> None:
    policy = PersistentScores(placebo=True)
    before: list[int] = []
    for n in (5, 6, 8):
        batch = setup.toy.make_data(n, M, seed=n)
        policy(setup.net, setup.optimizer, batch.batch, batch.val_batch, indices=torch.arange(n))
        after = others(policy)
        assert sorted(after) == list(range(n))
        assert sum(a != b for a, b in zip(before, after, strict=False)) <= n - len(before)
        before = after


def test_scores_that_were_read_before_the_first_step_change_nothing(setup: Any) -> None:
    learned = PersistentScores()
    ask(setup, learned, 0)
    state = {**learned.state_dict(), "seed": None}
    given = []
    for looked in (False, True):
        placebo = PersistentScores(placebo=True)
        placebo.load_state_dict(state)
        if looked:
            assert len(placebo.scores) == len(state["scores"])
        given.append((ask(setup, placebo, 1).lam, placebo.scores))
    assert all(map(torch.equal, *given))


def test_a_placebo_that_takes_up_another_one_gives_the_scores_that_it_gave(setup: Any) -> None:
    """As where an actor of Ray Tune goes on with the checkpoint of another trial."""
    policies = [PersistentScores(placebo=True) for _ in range(3)]
    batch = setup.toy.make_data(6, M, seed=1)
    for seed, policy in enumerate(policies[:2]):
        generator = torch.Generator().manual_seed(seed)
        policy(
            setup.net,
            setup.optimizer,
            batch.batch,
            batch.val_batch,
            indices=torch.arange(6),
            generator=generator,
        )
    first, used, new = policies
    for policy in (used, new):
        policy.load_state_dict(first.state_dict())
        assert torch.equal(policy.scores, first.scores)


@dataclass
class Stub:
    """In the place of `meta_gradient`: hypergradients as told."""

    hypergradient: Tensor

    def __call__(self, *_: Any, **__: Any) -> Any:
        zero = torch.zeros(())
        return SimpleNamespace(hypergradient=self.hypergradient, meta_loss=zero, validation=None)


def on_paper(
    monkeypatch: pytest.MonkeyPatch, setup: Any, hypergradient: list[float], **draws: list[Any]
) -> tuple[PersistentScores, Interpolation]:
    """Returns one stage at λ = ½ of three samples whose moves by sign or size can be read off."""
    monkeypatch.setattr(module, "meta_gradient", Stub(torch.tensor(hypergradient)))
    monkeypatch.setattr(module, "draw_beta", lambda n, *_, **__: torch.full((n,), 0.5))
    partner = torch.tensor(draws["partner"])
    monkeypatch.setattr("core.mixing.pairing.draw_partners", lambda *_, **__: partner)
    n = len(partner)
    policy = PersistentScores(Reading(gradient="lam", scale="mean", step_size=1.0))
    batch = torch.zeros(n, 4), torch.zeros(n, dtype=torch.int64)
    indices = torch.tensor(draws["indices"])
    return policy, policy(setup.net, setup.optimizer, batch, batch, indices=indices)


@pytest.mark.parametrize(
    ("slopes", "indices", "partner", "scores"),
    [
        # Sample 4 gives way to 0 by 1, 0 to 2 by 10, 2 to 4 by 100.
        ([1.0, 10.0, 100.0], [4, 0, 2], [1, 2, 0], [1 - 10, 0, 10 - 100, 0, 100 - 1]),
        # Sample 1 is first, second and in the third pair both: 1 → 3 by 1; 1 → 1 by 10; 3 → 0 by
        # 100; 0 → 1 by 1000.
        ([1.0, 10.0, 100.0, 1000.0], [1, 1, 3, 0], [2, 0, 3, 1], [-900, 999, 0, -99]),
        ([5.0], [2], [0], [0, 0, 0]),
    ],
    ids=["a circle", "a sample that comes twice", "its own partner"],
)
def test_who_moves_whom_on_paper(
    slopes: list[float], indices: list[int], partner: list[int], scores: list[float],
    monkeypatch: pytest.MonkeyPatch, setup: Any,
) -> None:  # fmt: skip
    policy, given = on_paper(monkeypatch, setup, slopes, indices=indices, partner=partner)
    assert policy.scores.tolist() == scores
    assert policy.scores.dtype == torch.float32
    mine = torch.tensor(scores, dtype=torch.float32)[indices]
    torch.testing.assert_close(given.lam, torch.sigmoid(mine - mine[partner]))


def test_scores_add_up_to_nothing(setup: SimpleNamespace) -> None:
    """Whatever one sample loses its partner gains. Rounding: of 20 steps, float32."""
    for control in ({}, {"placebo": True}, {"permute": True}):
        policy = PersistentScores(**control)
        for t in range(20):
            ask(setup, policy, t)
        assert float(policy.scores.abs().max()) > 0.5
        assert abs(float(policy.scores.double().sum())) < 1e-5


# ----------------------------------------------------------------------------------- how λ starts


def apart(lam: Tensor, expected: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """Kolmogorov's distance from a distribution function, and what it exceeds once in a million:
    2·exp(−2·2.7²) = 9e-7."""
    lam = lam.double().sort().values
    steps = torch.arange(len(lam) + 1) / len(lam)
    f = expected(lam)
    distance = torch.maximum((f - steps[:-1]).abs(), (f - steps[1:]).abs()).max()
    return float(distance), 2.7 / math.sqrt(len(lam))


def draws(policy: PersistentScores, setup: Any, indices: Tensor, batches: int = 300) -> Tensor:
    r = torch.Generator().manual_seed(4)
    x = torch.zeros(len(indices), 4, dtype=torch.float64)
    batch = x, torch.zeros(len(indices), dtype=torch.int64)
    lam = [
        policy(setup.net, setup.optimizer, batch, batch, generator=r, indices=indices).lam
        for _ in range(batches)
    ]
    return torch.cat(lam)


@pytest.mark.parametrize(("alpha", "uniform"), [(1.0, True), (0.5, False), (2.0, False)])
def test_lam_starts_uniform_and_otherwise_as_told(
    alpha: float, uniform: bool, setup: SimpleNamespace
) -> None:
    policy = PersistentScores(replace(SCORES, init_alpha=alpha, step_size=0.0), every=1000)
    lam = draws(policy, setup, torch.arange(60))
    distance, bound = apart(lam, lambda x: x)
    assert (distance < bound) == uniform
    if alpha == 2.0:  # 3x² − 2x³
        distance, bound = apart(lam, lambda x: 3 * x**2 - 2 * x**3)
        assert distance < bound


def test_a_difference_of_scores_shifts_the_logistic(setup: SimpleNamespace) -> None:
    """Sample 0 at +1 and sample 1 at −1: P(λ ≤ x) = sigmoid(logit(x) ∓ 2), x where each meets
    itself."""
    policy, r = PersistentScores(every=10**6), torch.Generator().manual_seed(4)
    scores = torch.tensor([1.0, -1.0])
    policy.load_state_dict({"steps": 1, "scores": scores, "validation_gradient": None})
    first = torch.arange(2).repeat(8000)
    batch = torch.zeros(len(first), 4, dtype=torch.float64), torch.zeros_like(first)
    given = policy(setup.net, setup.optimizer, batch, batch, generator=r, indices=first)
    difference = scores[first] - scores[first[given.partner]]
    for shift in (-2.0, 0.0, 2.0):
        lam = given.lam[difference == shift]
        distance, bound = apart(lam, lambda x, shift=shift: torch.sigmoid(torch.logit(x) - shift))
        assert distance < bound < 0.05
    assert torch.equal(policy.scores, scores)


# ------------------------------------------------------------------ its stage is that of `Learned`


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "unroll": {"engine": "unroll"},
    "difference": {"engine": "finite_difference"},
    "last_blocks": {"last_blocks": 1},
    "optimizer": {"reading": replace(SCORES, inner_step="optimizer")},
    "area": {"mixing": AreaMixing()},
}


@pytest.mark.parametrize(
    ("name", "loss"), [*((name, None) for name in OPTIONS), ("default", brier)]
)
def test_the_first_stage_is_that_of_a_learned_policy(name: str, loss: Any, toy: Any) -> None:
    """Scores of 0 leave λ0, so that everything but the move agrees to the last bit."""
    net = toy.make_net(norm=True)
    optimizer = optim.SGD(net.parameters(), lr=0.2, momentum=0.9, weight_decay=0.05)
    toy.warm_up(net, optimizer)
    d = toy.make_data(N, M)
    if name == "area":
        d.batch, d.val_batch = (
            (x[:, :, None, None].expand(-1, -1, 5, 5).contiguous(), y)
            for x, y in (d.batch, d.val_batch)
        )
        net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), net)
    loss = {} if loss is None else {"loss": loss}
    given, learned = (
        policy(net, optimizer, d.batch, d.val_batch, generator=torch.Generator().manual_seed(2),
               indices=torch.arange(N), **loss)
        for policy in (PersistentScores(**OPTIONS[name]), Learned(**OPTIONS[name]))
    )  # fmt: skip
    for each in ("lam_init", "partner", "hypergradient", "meta_loss", "extra_samples", "mixing"):
        assert toy.identical(vars(given)[each], vars(learned)[each]), each
    assert not torch.equal(given.lam, learned.lam)
    plain = PersistentScores()(
        net, optimizer, d.batch, d.val_batch, generator=torch.Generator().manual_seed(2),
        indices=torch.arange(N),
    )  # fmt: skip
    # Bits that an option or a loss left aside would not have.
    same = torch.equal(given.hypergradient, plain.hypergradient)
    assert same == (name == "default" and not loss)


def test_a_kept_validation_gradient_is_refreshed_by_stages(setup: SimpleNamespace) -> None:
    """Stages at steps 0, 2, 4, ...; the validation gradient anew at every third of them."""
    policy = PersistentScores(every=2, validation_gradient=ValidationGradient(3))
    sizes = [ask(setup, policy, t).extra_samples for t in range(10)]
    assert sizes == [N + M, 0, N, 0, N, 0, N + M, 0, N, 0]


def test_steps_between_run_no_network_and_need_no_validation_batch(setup: SimpleNamespace) -> None:
    policy = PersistentScores(every=3)
    passes: list[int] = []
    setup.net.inp.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    for t in range(7):
        passes.clear()
        before = policy.scores.clone()
        if t % 3 == 0:
            with pytest.raises(ValueError, match="needs a meta-validation batch, got None"):
                ask(setup, policy, t, val_batch=None)
            assert not passes
            ask(setup, policy, t)
            assert sorted(set(passes)) == [M, N]
        else:
            given = ask(setup, policy, t, val_batch=None)
            assert not passes
            assert torch.equal(before, policy.scores)
            assert given.change is not None
            assert float(given.change.abs().max()) > 0.01  # what was learned still acts


# ---------------------------------------------------------------------------- what is kept, resume


def test_later_steps_leave_a_state_and_scores_taken_before_alone(setup: SimpleNamespace) -> None:
    policy = PersistentScores()
    ask(setup, policy, 0)
    state, scores = policy.state_dict(), policy.scores
    copies = copy.deepcopy((state, scores))
    for t in range(1, 4):
        ask(setup, policy, t)
    assert setup.toy.identical((state, scores), copies)
    assert not torch.equal(policy.scores, scores)


def test_scores_reach_as_far_as_the_samples_seen(setup: SimpleNamespace) -> None:
    policy = PersistentScores(every=2)
    assert len(policy.scores) == 0
    for t, last in enumerate((20, 40, 30, 100)):  # 40 and 100 come up between stages
        before = policy.scores
        ask(setup, policy, t, indices=torch.arange(last - N + 1, last + 1))
        assert len(policy.scores) == max(last + 1, len(before))
        outside = torch.ones(len(policy.scores), dtype=torch.bool)
        outside[last - N + 1 : last + 1] = False
        padded = torch.zeros(len(policy.scores))
        padded[: len(before)] = before
        assert torch.equal(policy.scores[outside], padded[outside])


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (None, r"persistent scores need `indices`, the position \[9\] .*; got None"),
        (torch.arange(8), r"indices must be integer with shape \[9\], got torch.int64 \[8\]"),
        (torch.arange(9).float(), r"indices must be integer .* got torch.float32 \[9\]"),
        (torch.ones(9, dtype=torch.bool), r"indices must be integer .* got torch.bool \[9\]"),
        (torch.tensor([3, 1, -2, 4, 5, 6, 7, 8, 0]), "indices must be at least 0, got -2 at"),
        (torch.arange(9) + 10**13, "indices must be below 1073741824, got 10000000000000"),
        (list(range(9)), r"indices must be a tensor of shape \[9\], got list; torch.as_tensor"),
        (np.arange(9), r"indices must be a tensor of shape \[9\], got ndarray; torch.as_tensor"),
    ],
)
def test_indices_that_are_missing_or_off_are_refused(
    indices: Tensor | None, message: str, setup: SimpleNamespace
) -> None:
    policy = PersistentScores(every=2)
    ask(setup, policy, 0)
    state = copy.deepcopy(policy.state_dict())
    with pytest.raises(ValueError, match=message):
        ask(setup, policy, 1, indices=indices)
    assert setup.toy.identical(policy.state_dict(), state)


def test_a_step_takes_no_longer_for_samples_far_up(setup: SimpleNamespace) -> None:
    """Only the batch's own scores are read and written; what was given out stays as it was."""
    near, far = PersistentScores(), PersistentScores()
    for t in range(3):
        ask(setup, near, t, indices=torch.arange(9))
        given = far.scores
        copied = given.clone()
        ask(setup, far, t, indices=torch.arange(9) + 10**6)
        assert torch.equal(given, copied)
    assert torch.equal(far.scores[10**6 :], near.scores)
    assert not bool(far.scores[: 10**6].any())


def test_int32_indices_are_indices(setup: SimpleNamespace) -> None:
    one, other = PersistentScores(), PersistentScores()
    a = ask(setup, one, 0, indices=torch.arange(9))
    b = ask(setup, other, 0, indices=torch.arange(9, dtype=torch.int32))
    assert setup.toy.identical(vars(a), vars(b))
    assert torch.equal(one.scores, other.scores)


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match="every must be a whole number of at least 1, got 0"):
        PersistentScores(every=0)
    with pytest.raises(ValueError, match="every must be a whole number"):
        PersistentScores(every=2.5)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="needs projection=\"sigmoid_before\", got 'sigmoid_after'"
    ):
        PersistentScores(PAPER)
    with pytest.raises(ValueError, match="needs meta_steps=1, got 2"):
        PersistentScores(replace(DEFAULT, meta_steps=2))


# -------------------------------------------------------------------------------- the lowest ones


def test_the_lowest_scores_on_paper() -> None:
    scores = torch.tensor([0.5, -1.0, 0.0, -1.0, -3.0])
    indices, values = lowest_scores(scores, 4)
    assert indices.tolist() == [4, 1, 3, 2]
    assert values.tolist() == [-3.0, -1.0, -1.0, 0.0]
    assert lowest_scores(scores, 5)[0].tolist() == [4, 1, 3, 2, 0]
    for k in (0, 6):
        with pytest.raises(ValueError, match=rf"k must lie in \[1, 5\], .* got {k}"):
            lowest_scores(scores, k)


# ------------------------------------------------------------------- does it find bad labels

TRAINED, META = 900, 300
DIGITS = TrainingConfig(
    "digits", "digits_cnn", ScoresConfig(), train_size=TRAINED, meta_size=META, epochs=10,
    batch_size=64, meta_batch_size=64, lr=0.05, flip=False, label_noise=0.4,
)  # fmt: skip


def auc(scores: Tensor, low: Tensor) -> float:
    """Returns how often a sample of `low` is below one of the others, by counting all pairs."""
    below, above = scores[low][:, None], scores[~low][None]
    return float(((below < above).double() + 0.5 * (below == above)).mean())


@pytest.mark.slow
def test_scores_find_flipped_labels_and_the_placebos_do_not(tmp_path: Path) -> None:
    """Through `fit`, whose checkpoint holds the scores.

    Scores that know nothing have an AUC of ½ that deviates by √(901 / (12·360·540)) = 0.0197
    (Mann and Whitney): the placebo stays within five of them. Over five seeds learned scores had
    0.91 ± 0.01, and 95 or more of the 100 lowest were flipped, of which chance finds 40 ± 5. The
    bound of 0.8 is some ten of these deviations below, and fifteen of chance above ½.
    """
    labels = draw_labels(DIGITS, digits())
    flipped = labels.given != labels.true
    deviation = math.sqrt((TRAINED + 1) / (12 * 360 * 540))

    results = {}
    for policy in (ScoresConfig(), ScoresConfig(permute=True)):
        directory = tmp_path / policy.kind
        fit(replace(DIGITS, policy=policy), source=digits(), directory=directory)
        checkpoint = load_checkpoint(directory)
        assert checkpoint is not None
        scores = checkpoint["policy"]["scores"]
        assert scores.shape == (TRAINED,)
        lowest, _ = lowest_scores(scores, 100)
        results[policy.kind] = auc(scores, flipped), float(flipped[lowest].double().mean())
    assert results["scores"][0] > 0.8
    assert abs(results["scores-placebo"][0] - 0.5) < 5 * deviation
    assert results["scores"][1] > 0.85
