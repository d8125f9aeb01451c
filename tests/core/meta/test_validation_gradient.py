"""Stages with a kept validation gradient, by hand: −η ∂/∂λ ⟨∇θ L(θ; λ), v⟩ with v of the last
refresh."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, optim

from core.meta.reading import DEFAULT
from core.meta.validation_gradient import ValidationGradient
from core.metamixup import learn_interpolation, metamixup_step
from core.mixing.interpolation import Interpolation
from core.policies.learned import Learned

RATE = 0.3
ENGINES = ("double_backward", "forward_reverse")


@pytest.fixture
def setup(toy: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(net=toy.make_net(norm=True), toy=toy)


def stage_data(s: SimpleNamespace, stage: int) -> SimpleNamespace:
    data: SimpleNamespace = s.toy.make_data(seed=30 + stage)
    return data


def move_weights(s: SimpleNamespace, stage: int) -> None:
    """Returns what training does between two stages."""
    r = torch.Generator().manual_seed(stage)
    with torch.no_grad():
        for p in s.net.parameters():
            p += 0.2 * torch.randn(p.shape, generator=r, dtype=p.dtype)


def gradient(s: SimpleNamespace, d: SimpleNamespace, lam: Tensor) -> dict[str, Tensor]:
    """∇θ of the mixed loss, a function of λ."""
    p = {name: t.detach().requires_grad_() for name, t in s.net.named_parameters()}
    x, y = d.batch[0], s.toy.one_hot(d.batch[1])
    mixed = [lam[:, None] * t + (1 - lam)[:, None] * t[d.partner] for t in (x, y)]
    loss = s.toy.explicit_loss(s.toy.explicit_logits(s.net, p, mixed[0], None), mixed[1])
    grads = torch.autograd.grad(loss, list(p.values()), create_graph=True)
    return dict(zip(p, grads, strict=True))


def plain_step(s: SimpleNamespace, name: str, g: Tensor) -> Tensor:
    return s.net.get_parameter(name).detach() - RATE * g


def validation(s: SimpleNamespace, d: SimpleNamespace, prime: dict[str, Tensor]) -> Any:
    """(loss, v by name) at θ′."""
    p = {name: t.detach().requires_grad_() for name, t in prime.items()}
    x, y = d.val_batch
    loss = s.toy.explicit_loss(s.toy.explicit_logits(s.net, p, x, None), s.toy.one_hot(y))
    return loss.detach(), dict(zip(p, torch.autograd.grad(loss, list(p.values())), strict=True))


def by_hand(
    s: SimpleNamespace, d: SimpleNamespace, known: Any, step: Any = plain_step
) -> tuple[Tensor, Any]:
    """Returns the hypergradient, and (loss, v): `known`, or computed where that is None."""
    lam = d.lam.clone().requires_grad_()
    g = gradient(s, d, lam)
    leaves = {name: t.detach().requires_grad_() for name, t in g.items()}
    prime = {name: step(s, name, t) for name, t in leaves.items()}
    if known is None:
        known = validation(s, d, prime)
    along = sum(((prime[name] * known[1][name]).sum() for name in prime), torch.zeros(()))
    w = torch.autograd.grad(along, list(leaves.values()))
    product = sum(((a * b).sum() for a, b in zip(g.values(), w, strict=True)), torch.zeros(()))
    return torch.autograd.grad(product, lam)[0], known


def learn(
    s: SimpleNamespace, d: SimpleNamespace, kept: ValidationGradient | None, **more: Any
) -> Interpolation:
    if "optimizer" not in more:
        more["lr"] = RATE
    return learn_interpolation(
        s.net, d.batch, d.val_batch, lam=d.lam, partner=d.partner, validation_gradient=kept, **more
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_seven_stages_by_hand(k: int, engine: Any, setup: SimpleNamespace) -> None:
    carried, known = ValidationGradient(k), None
    for t in range(7):
        d = stage_data(setup, t)
        if t % k == 0:
            known = None
        expected, known = by_hand(setup, d, known)
        given = learn(setup, d, carried, engine=engine)
        assert given.hypergradient is not None
        torch.testing.assert_close(given.hypergradient, expected, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(given.meta_loss, known[0], rtol=1e-12, atol=1e-13)
        exact = learn(setup, d, None, engine=engine).hypergradient
        assert exact is not None
        assert torch.allclose(given.hypergradient, exact, rtol=1e-9) == (t % k == 0)
        move_weights(setup, t)


def momentum_step(s: SimpleNamespace, name: str, g: Tensor) -> Tensor:
    p = s.net.get_parameter(name)
    buffer = s.optimizer.state[p]["momentum_buffer"]
    return p.detach() - RATE * (0.9 * buffer + g + 0.1 * p.detach())


def adam_step(s: SimpleNamespace, name: str, g: Tensor) -> Tensor:
    p = s.net.get_parameter(name)
    state = s.optimizer.state[p]
    t = int(state["step"]) + 1
    m = (0.9 * state["exp_avg"] + 0.1 * g) / (1 - 0.9**t)
    v = (0.999 * state["exp_avg_sq"] + 0.001 * g * g) / (1 - 0.999**t)
    return p.detach() - 0.05 * m / (v.sqrt() + 1e-8)


@pytest.mark.parametrize("kind", ["momentum", "adam"])
def test_through_the_optimizers_own_step(kind: str, setup: SimpleNamespace) -> None:
    """Adam's step is not linear in the gradient: an old v meets the Jacobian of now."""
    parameters = list(setup.net.parameters())
    if kind == "adam":
        setup.optimizer, step = optim.Adam(parameters, lr=0.05), adam_step
    else:
        settings = {"momentum": 0.9, "weight_decay": 0.1}
        setup.optimizer, step = optim.SGD(parameters, lr=RATE, **settings), momentum_step
    setup.toy.warm_up(setup.net, setup.optimizer)
    reading = replace(DEFAULT, inner_step="optimizer")
    carried, known = ValidationGradient(2), None
    for t in range(4):
        d = stage_data(setup, t)
        expected, known = by_hand(setup, d, known if t % 2 else None, step)
        given = learn(setup, d, carried, optimizer=setup.optimizer, reading=reading)
        torch.testing.assert_close(given.hypergradient, expected, rtol=1e-9, atol=1e-12)
        move_weights(setup, t)


def test_updates_of_one_iteration_are_stages_of_their_own(setup: SimpleNamespace) -> None:
    """Two updates an iteration, v at every third: | new old | old new | old old | new ..."""
    passes = forward_passes(setup)
    reading, carried, n, m = replace(DEFAULT, meta_steps=2), ValidationGradient(3), 6, 5
    for t, fresh in enumerate([1, 1, 0, 1]):
        passes.clear()
        given = learn(setup, stage_data(setup, t), carried, reading=reading)
        assert sorted(passes) == sorted([n, n] + [m] * fresh)
        assert given.extra_samples == 2 * n + fresh * m


def test_the_second_update_meets_the_first_ones_v(setup: SimpleNamespace) -> None:
    d, reading = stage_data(setup, 0), replace(DEFAULT, meta_steps=2, step_size=0.5)
    first, known = by_hand(setup, d, None)
    z = DEFAULT.start(d.lam)
    d.lam = replace(reading, meta_steps=1).virtual(reading.move(z, d.lam, first))
    expected, _ = by_hand(setup, d, known)
    given = learn(setup, stage_data(setup, 0), ValidationGradient(2), reading=reading)
    torch.testing.assert_close(given.hypergradient, expected, rtol=1e-9, atol=1e-12)


def forward_passes(s: SimpleNamespace) -> list[int]:
    """Grows by the size of each batch that goes through the network."""
    sizes: list[int] = []
    s.net.inp.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    return sizes


@pytest.mark.parametrize("engine", ENGINES)
def test_the_validation_pass_is_left_out(engine: Any, setup: SimpleNamespace) -> None:
    passes, carried = forward_passes(setup), ValidationGradient(3)
    samples = []
    for t in range(5):
        passes.clear()
        samples.append(learn(setup, stage_data(setup, t), carried, engine=engine).extra_samples)
        assert passes.count(5) == (1 if t % 3 == 0 else 0)
        # Dual numbers go through the mixed batch once more, and once where v is there.
        assert passes.count(6) == (2 if engine == "forward_reverse" and t % 3 == 0 else 1)
    assert samples == [11, 6, 6, 11, 6]


def test_a_resumed_training_goes_on_with_the_same_v(setup: SimpleNamespace) -> None:
    def stages(kept: ValidationGradient, times: range) -> list[Any]:
        return [learn(setup, stage_data(setup, t), kept).hypergradient for t in times]

    for at in range(5):
        kept = ValidationGradient(3)
        stages(kept, range(at))
        file = io.BytesIO()
        torch.save(kept.state_dict(), file)
        whole = stages(kept, range(at, 6))
        file.seek(0)
        resumed = ValidationGradient(3)
        resumed.load_state_dict(torch.load(file))
        assert setup.toy.identical(stages(resumed, range(at, 6)), whole), at


def test_v_that_was_loaded_follows_to_where_the_parameters_lie() -> None:
    kept, names = ValidationGradient(2, average_over=2), ("weight",)
    kept.count((torch.tensor(1.0), [torch.ones(3)]), names)
    found = kept.last(names, torch.device("meta"))
    assert found is not None
    assert {t.device.type for t in (found[0], *found[1])} == {"meta"}
    [mean] = kept.averaged([torch.ones(3, device="meta")], names)
    assert mean.device.type == "meta"


def test_the_whole_step_and_the_policy_count_the_same_stages(setup: SimpleNamespace) -> None:
    optimizer = optim.SGD(setup.net.parameters(), lr=RATE)
    before = {k: v.clone() for k, v in setup.net.state_dict().items()}
    actual = []
    for road in ("step", "policy"):
        setup.net.load_state_dict(before)
        carried = ValidationGradient(2)
        policy = Learned(validation_gradient=carried)
        losses = []
        for t in range(4):
            d = stage_data(setup, t)
            generator = torch.Generator().manual_seed(t)
            if road == "step":
                result = metamixup_step(
                    setup.net, optimizer, d.batch, d.val_batch, validation_gradient=carried,
                    generator=generator,
                )  # fmt: skip
                losses.append(result.meta_loss)
            else:
                given = policy(setup.net, optimizer, d.batch, d.val_batch, generator=generator)
                losses.append(given.meta_loss)
        actual.append(losses)
    assert len({float(x) for x in actual[0]}) == 2
    assert float(actual[0][0]) == float(actual[1][0])
    assert len({float(x) for x in actual[1]}) == 2


def test_an_unroll_has_none_to_keep(setup: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match=r'"unroll" gives no validation gradient .*=2 .*auto'):
        learn(setup, stage_data(setup, 0), ValidationGradient(2), engine="unroll")
    given = learn(setup, stage_data(setup, 0), ValidationGradient(1), engine="unroll")
    torch.testing.assert_close(given.hypergradient, by_hand(setup, stage_data(setup, 0), None)[0])


@pytest.mark.parametrize("k", [0, -3, 1.5, float("nan")])
def test_less_than_every_stage_is_refused(k: Any) -> None:
    with pytest.raises(
        ValueError, match=f"refresh_every must be a whole number of at least 1, got {k}"
    ):
        ValidationGradient(k)
