"""The table by another road, steps between by hand, and whether predictions follow what was
learned."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.meta.reading import DEFAULT, PAPER, Reading
from core.mixing.batch import draw_beta, draw_partners
from core.mixing.interpolation import Interpolation
from core.mixing.kinds import INPUT, Mixing
from core.policies.amortised import Amortised, MoveTable
from core.policies.learned import Learned

Stage = tuple[Tensor, Tensor, Tensor, Tensor]
"""z, move, first, second."""


def a_stage(seed: int, classes: int = 3) -> Stage:
    r = torch.Generator().manual_seed(seed)
    z, noise = torch.randn(2, 12, generator=r, dtype=torch.float64)
    first, second = torch.randint(classes, (2, 12), generator=r)
    return z, 0.4 * z + first - 2.0 * second + 0.3 * noise, first, second


def learnt(stages: Sequence[Stage], **options: Any) -> MoveTable:
    table = MoveTable(**options)
    for stage in stages:
        table.learn(*stage)
    return table


def expectations(table: MoveTable, classes: int) -> Tensor:
    """Returns what the table says of each pair of classes, [C, C]."""
    first, second = torch.cartesian_prod(*[torch.arange(classes)] * 2).T
    return table.expected(first, second).view(classes, classes)


@dataclass
class Slow:
    """The same model as lists of samples, each with its weight, fitted anew each time."""

    memory: float = 0.95
    prior: float = 2.0
    samples: list[list[float]] = field(default_factory=list)
    rests: list[list[Any]] = field(default_factory=list)
    """[weight, pair, rest]; the rest as it was seen at its own stage."""

    def learn(self, z: Tensor, move: Tensor, first: Tensor, second: Tensor) -> None:
        for row in (*self.samples, *self.rests):
            row[0] *= self.memory
        new = list(zip(z.tolist(), move.tolist(), first.tolist(), second.tolist(), strict=True))
        self.samples += [[1.0, a, b] for a, b, _, _ in new]
        weight, x, y = np.array(self.samples).T
        self.slope = float(np.polyfit(x, y, 1, w=np.sqrt(weight))[0])
        self.rests += [[1.0, (i, j), b - self.slope * a] for a, b, i, j in new]
        self.residuals = [b - self.slope * a - self.entry(i, j) for a, b, i, j in new]

    def entry(self, i: int, j: int) -> float:
        kind = [row for row in self.rests if (row[1][0] == row[1][1]) == (i == j)]
        mean = sum(w * r for w, _, r in kind) / sum(w for w, _, _ in kind) if kind else 0.0
        ours = [row for row in kind if row[1] == (i, j)]
        total = sum(w for w, _, _ in ours)
        return float((sum(w * r for w, _, r in ours) + self.prior * mean) / (total + self.prior))


# ------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize(("memory", "prior"), [(0.0, 2.0), (0.5, 0.5), (0.95, 2.0)])
def test_many_stages_by_the_slow_road(memory: float, prior: float) -> None:
    """Classes come up late: the table grows."""
    table, slow = MoveTable(memory, prior), Slow(memory, prior)
    for seed, classes in enumerate([2, 2, 4, 3, 6]):
        stage = a_stage(seed, classes)
        table.learn(*stage)
        if memory == 0:
            slow.samples, slow.rests = [], []
        slow.learn(*stage)
        expected = [[slow.entry(i, j) for j in range(classes)] for i in range(classes)]
        seen = expectations(table, classes).numpy()
        np.testing.assert_allclose(seen, expected, rtol=1e-9, atol=1e-9)
        # Every residual comes up, and nothing else does.
        n = 2000
        zeros = torch.zeros(n, dtype=torch.int64)
        z = torch.full((n,), 0.7, dtype=torch.float64)
        actual = table.predict(z, zeros, zeros + 1, torch.Generator().manual_seed(seed))
        base = 0.7 * slow.slope + slow.entry(0, 1)
        seen = sorted(set((actual - base).numpy().round(8).tolist()))
        np.testing.assert_allclose(seen, sorted(slow.residuals), atol=1e-7)


@pytest.mark.parametrize("z", [0.0, 0.1, 0.3, -13.8])
@pytest.mark.parametrize("n", [1, 64])
def test_equal_logits_have_no_slope(z: float, n: int) -> None:
    """There rounding would be divided by rounding, and λ elsewhere be moved by the quotient."""
    r = torch.Generator().manual_seed(0)
    zeros = torch.zeros(n, dtype=torch.int64)
    move = 2 + 3 * torch.randn(n, generator=r, dtype=torch.float64)
    table = MoveTable(prior=1e-9)
    pair = zeros[:1].expand(2)
    for _ in range(20):
        table.learn(torch.full((n,), z, dtype=torch.float64), move, zeros, zeros)
        far = table.predict(torch.tensor([-9.0, 9.0]), pair, pair, r)
        assert float(far.min()) >= float(move.min()) - 1e-6
        assert float(far.max()) <= float(move.max()) + 1e-6


def test_predictions_take_one_draw_and_the_dtype_of_z() -> None:
    table = learnt([a_stage(0)])
    zeros = torch.zeros(5, dtype=torch.int64)
    r, mirror = torch.Generator().manual_seed(4), torch.Generator().manual_seed(4)
    for dtype in (torch.float32, torch.float64):
        assert table.predict(torch.zeros(5, dtype=dtype), zeros, zeros, r).dtype == dtype
        torch.randint(12, (5,), generator=mirror)
        assert torch.equal(r.get_state(), mirror.get_state())


def test_a_table_that_was_loaded_follows_to_where_the_logits_lie() -> None:
    table = MoveTable()
    table.load_state_dict(learnt([a_stage(0)]).state_dict())
    z, zeros = torch.zeros(5, device="meta"), torch.zeros(5, dtype=torch.int64, device="meta")
    assert table.predict(z, zeros, zeros).device.type == "meta"
    assert {t.device.type for t in table.state_dict().values()} == {"meta"}


def test_time_and_memory_do_not_depend_on_the_number_of_classes() -> None:
    """Two classes in a billion learn and predict as two in two; pairs that have faded are gone."""
    far = 2**30
    small, large = learnt([a_stage(0, classes=2)]), MoveTable()
    z, move, first, second = a_stage(0, classes=2)
    large.learn(z, move, first * far, second * far)
    given = [
        table.predict(z, first * k, second * k, torch.Generator().manual_seed(1))
        for table, k in ((small, 1), (large, far))
    ]
    assert torch.equal(*given)
    table = MoveTable(memory=0.5)
    for seed in range(60):  # new pairs at every stage
        z, move, first, second = a_stage(seed)
        table.learn(z, move, first + 10 * seed, second)
    # 0.5²⁰ is a millionth: at most 20 stages of 12 samples are kept.
    assert max(t.numel() for t in table.state_dict().values()) <= 2 * 20 * 12


def test_nothing_learned_nothing_predicted() -> None:
    zeros = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(
        RuntimeError, match=r"no meta stage was taken in yet: learn\(\) comes first"
    ):
        MoveTable().predict(torch.zeros(2), zeros, zeros)


def test_a_state_is_a_snapshot_that_two_tables_may_share() -> None:
    table = learnt([a_stage(0), a_stage(1)])
    state = table.state_dict()
    copied = copy.deepcopy(state)
    others = [MoveTable(), MoveTable()]
    for other in others:
        other.load_state_dict(state)
        other.learn(*a_stage(2))
    table.learn(*a_stage(2))
    assert all(torch.equal(state[name], copied[name]) for name in copied)
    for other in others:
        assert torch.equal(expectations(other, 3), expectations(table, 3))


def test_a_state_of_the_dense_table_is_taken_up() -> None:
    """Checkpoints that hold weight and sum [C, C] go on as the same table."""
    table = learnt([a_stage(0), a_stage(1)])
    state = table.state_dict()
    dense = torch.zeros(2, 3, 3, dtype=torch.float64)
    dense[:, state["pairs"] // 2**31, state["pairs"] % 2**31] = state["weight_and_sum"]
    remaining = {name: state[name] for name in ("moments", "residuals")}
    other = MoveTable()
    other.load_state_dict({**remaining, "weight": dense[0], "sum": dense[1]})
    for each in (table, other):
        each.learn(*a_stage(2))
    torch.testing.assert_close(expectations(other, 4), expectations(table, 4))


# ------------------------------------------------------------------------------------ the policy


def ask(s: SimpleNamespace, policy: Any, t: int, **more: Any) -> Interpolation:
    """Returns the answer for batch t; its draws depend on t alone."""
    d = s.toy.make_data(9, 4, seed=50 + t, soft=more.pop("soft", False))
    val_batch = more.pop("val_batch", d.val_batch)
    given: Interpolation = policy(
        s.net, s.optimizer, d.batch, val_batch, generator=torch.Generator().manual_seed(t), **more
    )
    return given


def passes(s: SimpleNamespace) -> list[int]:
    sizes: list[int] = []
    s.net.inp.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    return sizes


READINGS = {
    "default": DEFAULT,
    "paper": PAPER,
    "clip": Reading(projection="clip", gradient="lam", scale="rms", step_size=0.3),
    "sign": replace(DEFAULT, scale="sign", step_size=1.0),
    "optimizer": replace(DEFAULT, inner_step="optimizer"),
    "two updates": replace(DEFAULT, meta_steps=2),
}


@pytest.mark.parametrize("k", [1, 3])
def test_steps_that_learn_are_those_of_the_policy_inside(k: int, setup: SimpleNamespace) -> None:
    policy, learned = Amortised(every=k), Learned()
    for t in range(7):
        given = ask(setup, policy, t)
        truth = ask(setup, learned, t)
        assert setup.toy.identical(vars(given), vars(truth)) == (t % k == 0)
        assert torch.equal(given.lam_init, truth.lam_init)
        assert torch.equal(given.partner, truth.partner)


@pytest.mark.parametrize(
    ("name", "soft"), [*((name, False) for name in READINGS), ("default", True)]
)
def test_steps_between_by_hand(name: str, soft: bool, setup: SimpleNamespace) -> None:
    """λ is the λ that no learning would give, its logit moved by the table's prediction."""
    reading = READINGS[name]
    policy, slow = Amortised(Learned(reading), every=3), Slow()

    def unmoved(lam: Tensor) -> Tensor:
        if reading.projection == "sigmoid_after":
            return torch.sigmoid(lam)
        return lam

    def logit(lam: Tensor) -> Tensor:
        lam = lam.clamp(1e-6, 1 - 1e-6)
        return (lam / (1 - lam)).log()

    for t in range(6):
        given = ask(setup, policy, t, soft=soft)
        y = setup.toy.make_data(9, 4, seed=50 + t, soft=soft).batch[1]
        first = y.argmax(1) if soft else y
        second = first[given.partner]
        z = logit(unmoved(given.lam_init))
        at = unmoved(given.lam_init)
        # The default reading moves the logit by a slope that holds the factor λ(1 − λ).
        reach = at * (1 - at) if reading.gradient == "logit" and reading.scale != "sign" else at**0
        if t % 3 == 0:
            remaining = reach >= 0.01
            stage = (z, (logit(given.lam) - z) / reach, first, second)
            slow.learn(*(part[remaining] for part in stage))
            continue
        r = torch.Generator().manual_seed(t)
        lam_init = draw_beta(9, reading.init_alpha, generator=r, dtype=torch.float64)
        assert torch.equal(given.lam_init, lam_init)
        assert torch.equal(given.partner, draw_partners(9, generator=r))
        drawn = torch.randint(len(slow.residuals), (9,), generator=r)
        table = [slow.entry(i, j) for i, j in zip(first.tolist(), second.tolist(), strict=True)]
        move = slow.slope * z + torch.tensor(table) + torch.tensor(slow.residuals)[drawn]
        expected = 1 / (1 + (-(z + move * reach)).exp())
        torch.testing.assert_close(given.lam, expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(given.change, given.lam - unmoved(lam_init))
        assert given.hypergradient is given.meta_loss is None


@dataclass(frozen=True)
class Drawing:
    """A mixing that draws a number."""

    drawn: int | None = None
    hooks = False

    def draw(self, x: Tensor, generator: torch.Generator | None) -> Mixing:
        return Drawing(int(torch.randint(1000, (), generator=generator)))

    def logits(self, call: Any, model: Any, x: Tensor, lam: Tensor, partner: Tensor) -> Tensor:
        return INPUT.logits(call, model, x, lam, partner)


def test_what_the_mixing_draws_is_drawn_between_too(setup: SimpleNamespace) -> None:
    learned = Learned(mixing=Drawing())
    policy = Amortised(learned, every=2)
    for t in range(4):
        given = ask(setup, policy, t)
        assert given.mixing == ask(setup, learned, t).mixing != Drawing()


def test_a_step_between_runs_no_pass_and_reads_no_validation_batch(setup: SimpleNamespace) -> None:
    sizes, policy, samples = passes(setup), Amortised(every=3), []
    for t in range(6):
        sizes.clear()
        given = ask(setup, policy, t, **({} if t % 3 == 0 else {"val_batch": None}))
        samples.append(given.extra_samples)
        assert sizes == ([9, 4] if t % 3 == 0 else [])
    assert samples == [13, 0, 0, 13, 0, 0]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        Amortised(every=0)
    with pytest.raises(ValueError, match="every must be at least 1, got None"):
        Amortised(every=None)  # type: ignore[arg-type]
    for memory in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"memory must lie in \[0, 1\), got"):
            Amortised(memory=memory)


# ------------------------------------------------------------------- does it do what it is for


@dataclass
class ByPairs:
    """In the place of `Learned`: moves the logit by a table over class pairs and by noise."""

    effect: Tensor
    noise: float = 0.5
    slope: float = -0.3
    reading: Reading = field(default_factory=lambda: Reading(gradient="lam"))
    mixing: Mixing = INPUT
    seen: list[Tensor] = field(default_factory=list)

    def __call__(
        self, model: Any, optimizer: Any, batch: Any, val_batch: Any, *, generator: Any, **_: Any
    ) -> Interpolation:
        n, y = len(batch[1]), batch[1]
        lam_init = draw_beta(n, 1.0, generator=generator, dtype=torch.float64)
        partner = draw_partners(n, generator=generator)
        z = torch.logit(lam_init)
        noise = self.noise * torch.randn(n, generator=generator, dtype=torch.float64)
        lam = torch.sigmoid(z + self.slope * z + self.effect[y, y[partner]] + noise)
        self.seen.append(lam)
        return Interpolation(lam, partner, lam_init, change=lam - lam_init)


CLASSES, BATCH, EVERY, STAGES = 10, 128, 8, 60


def simulate() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """λ of stages and of steps between, after ten stages; predicted moves, and true effects."""
    r = torch.Generator().manual_seed(6)
    effect = 3 * torch.randn(CLASSES, CLASSES, generator=r, dtype=torch.float64)
    inside = ByPairs(effect)
    policy = Amortised(inside, every=EVERY)  # type: ignore[arg-type]
    between, moves, effects = [], [], []
    for t in range(EVERY * STAGES):
        y = torch.randint(CLASSES, (BATCH,), generator=r)
        given = policy(nn.Identity(), None, (torch.zeros(BATCH, 1, dtype=torch.float64), y), None,  # type: ignore[arg-type]
            generator=r)  # fmt: skip
        if t % EVERY and t >= 10 * EVERY:
            z = torch.logit(given.lam_init)
            between.append(given.lam)
            moves.append(torch.logit(given.lam) - z - inside.slope * z)
            effects.append(effect[y, y[given.partner]])
    return torch.cat(inside.seen[10:]), *map(torch.cat, (between, moves, effects))


def test_predictions_follow_the_pairs_and_the_spread_of_what_was_learned() -> None:
    learned, between, moves, effects = simulate()
    # Moves are effect + noise: even the true effect correlates by √(3² / (3² + 0.5²)) = 0.99.
    best = float(effects.std() / (effects.var() + 0.25).sqrt())
    actual = float(torch.corrcoef(torch.stack([moves, effects]))[0, 1])
    assert best - 0.03 < actual < best + 0.01
    # A pair has been seen 128 / 100 times a stage, over the last 1 / (1 − 0.95) of them, against
    # the prior of 2: it is predicted at 25.6 / 27.6 of its effect.
    slope = np.polyfit(effects.numpy(), moves.numpy(), 1)[0]
    assert slope == pytest.approx(25.6 / 27.6, abs=0.02)
    # Kolmogorov and Smirnov. What is between repeats the residuals of its stage, so that it counts
    # as no more draws than the stages; two samples of n part by 2.7·√(2/n) once in a million.
    n = len(learned)
    grid = torch.linspace(0, 1, 400, dtype=torch.float64)
    parts = [torch.searchsorted(s.sort().values, grid) / len(s) for s in (learned, between)]
    assert float((parts[0] - parts[1]).abs().max()) < 2.7 * math.sqrt(2 / n)
    # The bound tells them from draws without learning.
    uniform = (parts[0] - grid).abs().max()
    assert float(uniform) > 2.7 * math.sqrt(2 / n)
