"""Every engine against an unroll by hand and a closed form; the unroll against differences.

The unroll uses explicit tensors and explicit update formulas. The differences train real copies:
mix, one `.step()` of torch's own optimizer, evaluate.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from core.meta.engines import compiled
from core.meta.gradient import ENGINES, hypergradient, meta_gradient, unwrap
from core.testing.small_network import make_net
from tests.support.differences import differences

RATE = 0.3
NAMES = tuple(dict(make_net().named_parameters()))

# An optimizer's own step is never compiled, and that is said; no other reason may come up here.
pytestmark = pytest.mark.filterwarnings(
    'ignore:engine "compiled" does not compile .* the inner step is the optimizer'
)


@pytest.fixture(autouse=True)
def _compile_to_eager_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is the same, without the wait for C++."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")


@dataclass(frozen=True)
class Case:
    """One set-up. Without `optimizer` the virtual step is plain descent at `lr`."""

    net: dict[str, bool] = field(default_factory=dict)
    optimizer: Callable[[Any], optim.Optimizer] | None = None
    warm: bool = False
    lr: Callable[[Any], Any] | None = None
    evaluate: bool = False
    soft: bool = False
    frozen: tuple[str, ...] = ()


def sgd(**settings: Any) -> Callable[[Any], optim.Optimizer]:
    return lambda net: optim.SGD(net.parameters(), lr=RATE, **settings)


def adam(kind: Any = optim.Adam, **settings: Any) -> Callable[[Any], optim.Optimizer]:
    return lambda net: kind(net.parameters(), lr=0.05, **settings)


def groups(net: Any) -> optim.Optimizer:
    return optim.SGD(
        [
            {"params": net.inp.parameters(), "lr": 0.5, "weight_decay": 0.2},
            {"params": [net.hidden.weight, net.out.weight], "lr": 0.1},
        ],
        lr=0.2,
        momentum=0.9,
    )


def adam_groups(net: Any) -> optim.Optimizer:
    return optim.Adam(
        [{"params": net.inp.parameters(), "lr": 0.1}, {"params": net.out.parameters()}],
        lr=0.02,
        eps=1e-3,
    )


def rates_by_name(net: Any) -> dict[str, float]:
    return {name: 0.1 * (i + 1) for i, (name, _) in enumerate(net.named_parameters())}


EVERYTHING = {"norm": True, "drop": True, "tied": True, "unused": True}
CASES = {
    "plain": Case(),
    "batch_norm": Case(net={"norm": True}),
    "batch_norm_eval": Case(net={"norm": True}, evaluate=True),
    "dropout": Case(net={"drop": True}),
    "dropout_eval": Case(net={"drop": True}, evaluate=True),
    "soft_labels": Case(soft=True),
    "tied": Case(net={"tied": True}),
    "unused": Case(net={"unused": True}),
    "frozen": Case(frozen=("inp.weight", "hidden.bias")),
    "rates_by_name": Case(lr=rates_by_name),
    "sgd": Case(optimizer=sgd()),
    "momentum_cold": Case(optimizer=sgd(momentum=0.9, weight_decay=0.1)),
    "momentum_warm": Case(optimizer=sgd(momentum=0.9, weight_decay=0.1), warm=True),
    "dampening_warm": Case(optimizer=sgd(momentum=0.9, dampening=0.3), warm=True),
    "nesterov_cold": Case(optimizer=sgd(momentum=0.9, nesterov=True)),
    "nesterov_warm": Case(optimizer=sgd(momentum=0.9, nesterov=True, weight_decay=0.1), warm=True),
    # A cold Adam with a tiny ε steps by the sign of the gradient: its derivative is about zero.
    "adam_cold": Case(optimizer=adam(eps=0.05)),
    "adam_warm": Case(optimizer=adam(weight_decay=0.1), warm=True),
    "amsgrad_warm": Case(optimizer=adam(amsgrad=True), warm=True),
    "adamw_cold": Case(optimizer=adam(optim.AdamW, eps=0.05, weight_decay=0.3)),
    "adamw_warm": Case(optimizer=adam(optim.AdamW, weight_decay=0.3), warm=True),
    "groups_warm": Case(optimizer=groups, warm=True),
    "adam_groups_warm": Case(optimizer=adam_groups, warm=True),
    "everything": Case(net=EVERYTHING, frozen=("inp.bias",), soft=True),
    "everything_adam": Case(net=EVERYTHING, frozen=("inp.bias",), optimizer=adam(), warm=True),
    "everything_momentum": Case(
        net=EVERYTHING, frozen=("inp.bias",), optimizer=sgd(momentum=0.9), warm=True
    ),
}

APPROXIMATE = {"finite_difference": 1e-5}
"""Relative error in float64 on this smooth network."""

IN_WHOLE = ("double_backward", "unroll")
AT_ONCE = (
    "plain", "batch_norm_eval", "dropout_eval", "rates_by_name", "groups_warm", "everything",
    "everything_adam", "everything_momentum",
)  # fmt: skip
"""Enough for the other engines, which take the optimizers' steps by the code of the first:
`everything` has all that a network may have together."""

engines = pytest.mark.parametrize("engine", sorted(ENGINES))
cases = pytest.mark.parametrize("name", CASES)


def build(case: Case, toy: SimpleNamespace) -> SimpleNamespace:
    net = toy.make_net(**case.net)
    for name in case.frozen:
        net.get_parameter(name).requires_grad_(False)
    optimizer = case.optimizer(net) if case.optimizer else None
    if case.warm:
        toy.warm_up(net, optimizer)
    net.train(not case.evaluate)
    lr = None if optimizer else (case.lr(net) if case.lr else RATE)
    data = toy.make_data(soft=case.soft)
    return SimpleNamespace(net=net, optimizer=optimizer, lr=lr, **vars(data))


def arguments(s: SimpleNamespace) -> dict[str, Any]:
    names = {"net": "model"}
    return {names.get(name, name): value for name, value in vars(s).items()}


def by_code(s: SimpleNamespace, engine: Any) -> Tensor:
    return hypergradient(**arguments(s), engine=engine)


def sgd_formula(p: Tensor, g: Tensor, group: Mapping[str, Any], state: Mapping[str, Any]) -> Tensor:
    """v ← μ v + (1 − τ)(g + wd·θ), started at g; θ′ = θ − η (v or, Nesterov, g + μ v)."""
    g = g + group["weight_decay"] * p
    momentum = group["momentum"]
    if momentum == 0:
        return p - group["lr"] * g
    v = g
    if "momentum_buffer" in state:
        v = momentum * state["momentum_buffer"] + (1 - group["dampening"]) * g
    return p - group["lr"] * (g + momentum * v if group["nesterov"] else v)


def adam_formula(
    p: Tensor, g: Tensor, group: Mapping[str, Any], state: Mapping[str, Any], decoupled: bool
) -> Tensor:
    """Kingma & Ba, Algorithm 1, with m̂ and v̂; amsgrad and decoupled decay as published."""
    b1, b2 = group["betas"]
    if decoupled:
        p = (1 - group["lr"] * group["weight_decay"]) * p
    else:
        g = g + group["weight_decay"] * p
    t = float(state.get("step", 0)) + 1
    m = b1 * state.get("exp_avg", 0) + (1 - b1) * g
    v = b2 * state.get("exp_avg_sq", 0) + (1 - b2) * g**2
    if group["amsgrad"]:
        v = torch.maximum(state.get("max_exp_avg_sq", torch.zeros_like(v)), v)
    return p - group["lr"] * (m / (1 - b1**t)) / ((v / (1 - b2**t)) ** 0.5 + group["eps"])


def by_unroll(s: SimpleNamespace, toy: SimpleNamespace) -> Tensor:
    net, lam = s.net, s.lam.clone().requires_grad_()
    mask, val_mask = toy.masks(net, (len(s.lam), len(s.val_batch[0])))
    p = {name: v.detach().clone().requires_grad_() for name, v in net.named_parameters()}
    x, y = s.batch[0], toy.one_hot(s.batch[1])
    w = lam[:, None]
    x, y = w * x + (1 - w) * x[s.partner], w * y + (1 - w) * y[s.partner]
    loss = toy.explicit_loss(toy.explicit_logits(net, p, x, mask), y)
    trained = [n for n, v in net.named_parameters() if v.requires_grad and n != "unused"]
    g = dict(
        zip(
            trained,
            torch.autograd.grad(loss, [p[n] for n in trained], create_graph=True),
            strict=True,
        )
    )
    prime = dict(p)
    for n in trained:
        if s.optimizer is None:
            prime[n] = p[n] - (s.lr[n] if isinstance(s.lr, dict) else s.lr) * g[n]
            continue
        original = net.get_parameter(n)
        state = s.optimizer.state.get(original, {})
        for group in s.optimizer.param_groups:
            if not any(q is original for q in group["params"]):
                continue
            if isinstance(s.optimizer, optim.SGD):
                prime[n] = sgd_formula(p[n], g[n], group, state)
            else:
                decoupled = isinstance(s.optimizer, optim.AdamW)
                prime[n] = adam_formula(p[n], g[n], group, state, decoupled)
    val = toy.explicit_logits(net, prime, s.val_batch[0], val_mask)
    meta = toy.explicit_loss(val, toy.one_hot(s.val_batch[1]))
    return torch.autograd.grad(meta, lam)[0]


def meta_loss_by_training(s: SimpleNamespace, lam: Tensor, toy: SimpleNamespace) -> float:
    """Really do it, on copies: mix, step, evaluate."""
    net, optimizer = copy.deepcopy((s.net, s.optimizer))
    if optimizer is None:
        named = [(n, p) for n, p in net.named_parameters() if p.requires_grad]
        optimizer = optim.SGD(
            [{"params": [p], "lr": s.lr[n] if isinstance(s.lr, dict) else s.lr} for n, p in named]
        )
    x, y = s.batch[0], toy.one_hot(s.batch[1])
    mixed = torch.lerp(x[s.partner], x, lam[:, None])
    target = torch.lerp(y[s.partner], y, lam[:, None])
    with torch.random.fork_rng(devices=[]):
        optimizer.zero_grad()
        F.cross_entropy(net(mixed), target).backward()
        optimizer.step()
        with torch.no_grad():
            return float(F.cross_entropy(net(s.val_batch[0]), s.val_batch[1]))


def tolerance(engine: str, exact: float) -> float:
    return max(exact, APPROXIMATE.get(engine, 0.0))


def assert_close(a: Tensor, b: Tensor, relative: float) -> None:
    assert float(b.norm()) > 1e-7
    assert float((a - b).norm() / b.norm()) < relative


@pytest.mark.parametrize(
    ("name", "engine"),
    [(c, e) for c in CASES for e in sorted(ENGINES) if e in IN_WHOLE or c in AT_ONCE],
)
def test_equals_an_unroll_by_hand(name: str, engine: str, toy: SimpleNamespace) -> None:
    s = build(CASES[name], toy)
    value = by_code(s, engine)
    assert value.shape == s.lam.shape
    assert value.dtype == torch.float64
    assert not value.requires_grad
    assert_close(value, by_unroll(s, toy), tolerance(engine, 1e-10))


@cases
def test_the_unroll_equals_central_differences(name: str, toy: SimpleNamespace) -> None:
    """Every engine equals the unroll to 1e-5 or better, in the test above."""
    s = build(CASES[name], toy)
    truth = differences(lambda lam: meta_loss_by_training(s, lam, toy), s.lam, 2e-5)
    assert_close(by_unroll(s, toy), truth, 1e-5)


class Scalar(nn.Module):
    """f(x) = w·x, one parameter."""

    def __init__(self, w: float):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x


@engines
def test_closed_form_of_linear_regression(engine: Any) -> None:
    """One weight w, loss ½(w·x − y)².

    With x̃ᵢ = λᵢxᵢ + (1−λᵢ)xⱼ, ỹᵢ alike, dᵢ = xᵢ − xⱼ and eᵢ = yᵢ − yⱼ, the step is
    w′ = w − (η/n) Σ (w x̃ᵢ − ỹᵢ) x̃ᵢ, so ∂w′/∂λᵢ = −(η/n)[(w dᵢ − eᵢ) x̃ᵢ + (w x̃ᵢ − ỹᵢ) dᵢ], and
    the meta loss has slope v = (1/m) Σ (w′ X − Y) X at w′.
    """
    x, y, lam, partner = [1.0, -2.0, 0.5], [0.3, 1.0, -0.7], [0.2, 0.9, 0.6], [1, 2, 0]
    big_x, big_y, w, eta = [0.4, -1.5], [1.0, 0.2], 0.7, 0.25
    n = len(x)
    tx = [lam[i] * x[i] + (1 - lam[i]) * x[partner[i]] for i in range(n)]
    ty = [lam[i] * y[i] + (1 - lam[i]) * y[partner[i]] for i in range(n)]
    prime = w - eta / n * sum((w * tx[i] - ty[i]) * tx[i] for i in range(n))
    v = sum((prime * a - b) * a for a, b in zip(big_x, big_y, strict=True)) / len(big_x)
    truth = []
    for i in range(n):
        d, e = x[i] - x[partner[i]], y[i] - y[partner[i]]
        truth.append(v * -eta / n * ((w * d - e) * tx[i] + (w * tx[i] - ty[i]) * d))

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)[:, None]

    result = meta_gradient(
        Scalar(w),
        (column(x), column(y)),
        (column(big_x), column(big_y)),
        torch.tensor(lam, dtype=torch.float64),
        torch.tensor(partner),
        lr=eta,
        engine=engine,
        loss=lambda f, t: 0.5 * ((f - t) ** 2).mean(),
    )
    assert result.hypergradient.tolist() == pytest.approx(truth, rel=tolerance(engine, 1e-12))
    losses = [0.5 * (prime * a - b) ** 2 for a, b in zip(big_x, big_y, strict=True)]
    assert float(result.meta_loss) == pytest.approx(sum(losses) / 2, rel=1e-12)
    virtual = [0.5 * (w * a - b) ** 2 for a, b in zip(tx, ty, strict=True)]
    assert float(result.virtual_loss) == pytest.approx(sum(virtual) / n, rel=1e-12)


@engines
def test_special_batches(engine: Any, toy: SimpleNamespace) -> None:
    net = toy.make_net()
    # A batch of one is its own partner: λ changes nothing.
    alone = hypergradient(net, **vars(toy.make_data(1, 1)), lr=RATE, engine=engine)
    assert alone.tolist() == [0.0]
    data = toy.make_data(7, 1)
    # A repeated partner, sizes 7 and 1, λ at its limits.
    data.partner = torch.tensor([3, 3, 3, 0, 1, 2, 6])
    data.lam[:2] = torch.tensor([0.0, 1.0])
    s = SimpleNamespace(net=net, optimizer=None, lr=RATE, **vars(data))
    value = by_code(s, engine)
    assert_close(value, by_unroll(s, toy), tolerance(engine, 1e-10))
    assert value[6] == 0  # its own partner
    # No step, no influence.
    s.lr = 0.0
    assert by_code(s, engine).tolist() == [0.0] * 7


@engines
def test_float32_is_near_float64(engine: Any, toy: SimpleNamespace) -> None:
    double = build(CASES["batch_norm"], toy)
    single = SimpleNamespace(
        net=toy.make_net(norm=True, dtype=torch.float32),
        optimizer=None,
        lr=RATE,
        batch=(double.batch[0].float(), double.batch[1]),
        val_batch=(double.val_batch[0].float(), double.val_batch[1]),
        lam=double.lam.float(),
        partner=double.partner,
    )
    value = by_code(single, engine)
    assert value.dtype == torch.float32
    # The error of a difference in float32 is no rounding; what it is, its own tests measure.
    relative = 1e-2 if engine in APPROXIMATE else 1e-4
    assert_close(value.double(), by_code(double, "unroll"), relative)


@engines
@pytest.mark.parametrize("name", ["plain", "everything_adam", "everything_momentum"])
def test_loss_scale_cancels(engine: Any, name: str, toy: SimpleNamespace) -> None:
    s = build(CASES[name], toy)
    plain, *scaled = (
        meta_gradient(**arguments(s), engine=engine, scale=scale)
        for scale in (1.0, 2.0**-6, 2.0**16)
    )
    for field_name in ("hypergradient", "meta_loss", "virtual_loss"):
        for a, b in ((getattr(other, field_name), getattr(plain, field_name)) for other in scaled):
            torch.testing.assert_close(a, b, rtol=tolerance(engine, 1e-10), atol=1e-14)


@engines
@pytest.mark.parametrize("name", ["plain", "everything", "everything_adam"])
def test_touches_nothing(name: str, engine: Any, toy: SimpleNamespace) -> None:
    s = build(CASES[name], toy)
    gradients = iter([None, "value"] * 20)
    for p in s.net.parameters():
        if p.requires_grad and next(gradients):
            p.grad = torch.randn_like(p)
    fired: list[Tensor] = []
    for p in s.net.parameters():
        if p.requires_grad:
            p.register_hook(fired.append)
            p.register_post_accumulate_grad_hook(fired.append)
    s.net.hidden.eval()  # a mode of its own
    inputs = copy.deepcopy((s.batch, s.val_batch, s.lam, s.partner))
    before, stream = toy.snapshot(s.net, s.optimizer), torch.get_rng_state()
    first = by_code(s, engine)
    assert toy.identical(before, toy.snapshot(s.net, s.optimizer))
    assert toy.identical(inputs, (s.batch, s.val_batch, s.lam, s.partner))
    assert torch.equal(stream, torch.get_rng_state())
    assert fired == []
    with torch.no_grad():
        assert torch.equal(by_code(s, engine), first)
    s.net(s.batch[0]).sum().backward()
    assert fired  # the hooks do work


def test_auto_is_an_exact_engine(toy: SimpleNamespace) -> None:
    for name in ("everything", "everything_adam"):
        s = build(CASES[name], toy)
        assert_close(by_code(s, "auto"), by_unroll(s, toy), 1e-10)


def test_compiled_parts_run_eagerly(toy: SimpleNamespace) -> None:
    s = build(CASES["plain"], toy)
    truth = by_code(s, "auto")
    # Each of these backends cuts double backward off where it runs.
    whole = SimpleNamespace(**{**vars(s), "net": torch.compile(s.net, backend="aot_eager")})
    assert torch.equal(by_code(whole, "auto"), truth)
    assert unwrap(whole.net) is s.net
    s.net.hidden = torch.compile(s.net.hidden, backend="aot_eager")
    assert torch.equal(by_code(s, "auto"), truth)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": None}, "either `lr` or `optimizer`"),
        ({"lr": {"inp.weight": 0.1}}, r"no rate for parameter 'inp.bias'; it has \['inp.weight'\]"),
        ({"lr": float("nan")}, "lr must be finite and >= 0, got nan for 'inp.weight'"),
        ({"lr": dict.fromkeys(NAMES)}, "lr must be finite and >= 0, got None for 'inp.weight'"),
        ({"lr": dict.fromkeys(NAMES, "a")}, "lr must be finite and >= 0, got 'a'"),
        ({"lr": -0.1}, "lr must be finite and >= 0, got -0.1"),
        ({"engine": "fast"}, "engine must be one of auto, unroll, double_backward.*; got 'fast'"),
        ({"lam": torch.full((6,), 1.3)}, r"lam must lie in \[0, 1\], got 1.29.* at index 0"),
        ({"lam": torch.zeros(5)}, r"lam must be a floating tensor of shape \[6\]"),
        ({"partner": torch.full((6,), 6)}, r"partner must lie in \[0, 5\], got 6 at index 0"),
        ({"batch": (torch.zeros(6, 4).int(), torch.zeros(6).long())}, "training inputs must be"),
        ({"val_batch": (torch.zeros(0, 4), torch.zeros(0).long())}, "meta-validation inputs"),
        ({"val_batch": (torch.zeros(2, 4).double(), torch.tensor([0, 3]))}, "got 3 at index 1"),
        ({"batch": (torch.zeros(6, 4).double(), torch.full((6,), 9))}, "got 9 at index 0"),
        ({"val_batch": (torch.zeros(2, 4).double(), torch.zeros(2, 5))}, r"shape \[B, 3\]"),
        ({"model": nn.Flatten(0)}, "no trainable parameter"),
        ({"model": nn.Sequential(nn.Linear(4, 3), nn.Flatten(0)).double()}, r"must return logits"),
        ({"model": nn.LSTM(4, 3).double()}, "must return logits .*got tuple"),
        (
            {"model": nn.LazyLinear(3)},
            "'weight' is of a lazy layer that has seen no batch",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    change: dict[str, Any], message: str, toy: SimpleNamespace
) -> None:
    data = toy.make_data()
    with pytest.raises(ValueError, match=message):
        hypergradient(**{"model": toy.make_net(), "lr": RATE, **vars(data), **change})


def test_lr_beside_an_optimizer_must_agree(toy: SimpleNamespace) -> None:
    s = build(CASES["groups_warm"], toy)
    alone = by_code(s, "auto")
    held = {"inp.weight": 0.5, "inp.bias": 0.5, "hidden.weight": 0.1, "out.weight": 0.1}
    s.lr = {**held, "hidden.bias": 0.0, "out.bias": 0.0}
    assert torch.equal(by_code(s, "auto"), alone)
    s.lr = {**s.lr, "out.weight": 0.2}
    with pytest.raises(ValueError, match=r"says 0.2 for parameter 'out.weight', the optimizer 0.1"):
        by_code(s, "auto")


def test_frozen_parameters_need_no_rate(toy: SimpleNamespace) -> None:
    s = build(CASES["frozen"], toy)
    truth = by_code(s, "auto")
    s.lr = {n: RATE for n, p in s.net.named_parameters() if p.requires_grad}
    assert torch.equal(by_code(s, "auto"), truth)


@pytest.mark.parametrize("warm", [0, 3])
@pytest.mark.parametrize(
    "settings", [{}, {"momentum": 0.9, "weight_decay": 0.1}], ids=["plain", "momentum"]
)
def test_rmsprop_whose_units_are_dead_against_differences(
    settings: dict[str, float], warm: int, toy: SimpleNamespace
) -> None:
    """A centered one divides by the root of a variance, which is that of 0 there."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        net[0].bias[:2] = -100.0
    optimizer = optim.RMSprop(net.parameters(), lr=0.05, eps=0.05, centered=True, **settings)
    data = toy.make_data()
    for t in range(warm):
        optimizer.zero_grad()
        F.cross_entropy(net(toy.make_data(seed=t).batch[0]), data.batch[1]).backward()
        optimizer.step()
    s = SimpleNamespace(net=net, optimizer=optimizer, lr=None, **vars(data))
    expected = differences(lambda lam: meta_loss_by_training(s, lam, toy), s.lam, 1e-5)
    for engine in ("double_backward", "unroll"):
        assert_close(by_code(s, engine), expected, 1e-6)
