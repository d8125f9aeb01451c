from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, optim

import core
from core.meta.gradient import meta_gradient
from core.meta.reading import DEFAULT, PAPER, Reading
from core.metamixup import learn_interpolation, metamixup_step
from core.mixing.real_step import StepResult

EVERYTHING = {"norm": True, "drop": True, "tied": True}


def draws_by_hand(n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """λ0 ~ U(0, 1) and the pairing, as documented: one integer that seeds NumPy, one permutation"""
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    lam = torch.from_numpy(np.random.default_rng(seed).beta(1.0, 1.0, n))
    return lam, torch.randperm(n, generator=generator)


def algorithm_1(
    net: Any,
    optimizer: optim.Optimizer,
    data: SimpleNamespace,
    which: str,
    toy: SimpleNamespace,
    generator: torch.Generator | None,
) -> SimpleNamespace:
    """Takes one iteration of Algorithm 1 in formulas; `net` and `optimizer` take the real step."""
    x, y = data.batch[0], toy.one_hot(data.batch[1])
    n = len(x)
    lam_init, j = draws_by_hand(n, generator)
    z = lam_init if which == "paper" else torch.log(lam_init / (1 - lam_init))
    lam = (z if which == "paper" else 1 / (1 + torch.exp(-z))).clone().requires_grad_()
    w = lam[:, None]
    mask, val_mask = toy.masks(net, (n, len(data.val_batch[0])))
    p = {k: v.detach().clone().requires_grad_() for k, v in net.named_parameters()}
    logits = toy.explicit_logits(net, p, w * x + (1 - w) * x[j], mask)  # line 4
    loss = toy.explicit_loss(logits, w * y + (1 - w) * y[j])
    g = torch.autograd.grad(loss, list(p.values()), create_graph=True)
    eta = optimizer.param_groups[0]["lr"]
    prime = {k: v - eta * d for (k, v), d in zip(p.items(), g, strict=True)}  # line 5
    val_logits = toy.explicit_logits(net, prime, data.val_batch[0], val_mask)
    meta = toy.explicit_loss(val_logits, toy.one_hot(data.val_batch[1]))
    (slope,) = torch.autograd.grad(meta, lam)  # line 6
    if which == "paper":
        z = z - 5.0 * slope
    else:
        by_logit = slope * lam.detach() * (1 - lam.detach())
        z = z - 4.0 * by_logit / math.sqrt(float((by_logit**2).mean()))
    lam_star = 1 / (1 + torch.exp(-z))  # line 7
    w = lam_star[:, None]
    optimizer.zero_grad()
    real = F.cross_entropy(net(w * x + (1 - w) * x[j]), w * y + (1 - w) * y[j])
    real.backward()
    optimizer.step()  # line 8
    return SimpleNamespace(
        loss=real.detach(),
        lam=lam_star,
        lam_init=lam_init,
        partner=j,
        hypergradient=slope,
        meta_loss=meta.detach(),
    )


@pytest.mark.parametrize(
    ("which", "engine", "own_generator", "options"),
    [
        ("paper", "auto", True, {}),
        ("paper", "unroll", False, EVERYTHING),
        ("default", "auto", True, EVERYTHING),
        ("default", "auto", False, EVERYTHING),
        ("default", "unroll", True, {}),
    ],
)
def test_is_algorithm_1(
    which: str, engine: Any, own_generator: bool, options: dict[str, bool], toy: SimpleNamespace
) -> None:
    runs = {}
    for road in ("code", "hand"):
        torch.manual_seed(11)
        generator = torch.Generator().manual_seed(12) if own_generator else None
        net = toy.make_net(**options)
        optimizer = optim.SGD(net.parameters(), lr=0.5, momentum=0.9, weight_decay=0.01)
        scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
        results = []
        for step in range(3):
            data = toy.make_data(6, 5, seed=step)
            if road == "code":
                result: Any = metamixup_step(
                    net,
                    optimizer,
                    data.batch,
                    data.val_batch,
                    reading=core.READINGS[which],
                    engine=engine,
                    generator=generator,
                )
                assert isinstance(result, StepResult)
            else:
                result = algorithm_1(net, optimizer, data, which, toy, generator)
            scheduler.step()
            results.append(result)
        state = dict(net.named_parameters()) | dict(net.named_buffers())
        stream = (torch.get_rng_state(), generator.get_state() if generator else None)
        runs[road] = (results, state, stream)
    for mine, truth in zip(runs["code"][0], runs["hand"][0], strict=True):
        for field in vars(truth):
            torch.testing.assert_close(
                getattr(mine, field), getattr(truth, field), rtol=1e-9, atol=1e-14
            )
    for name, value in runs["code"][1].items():
        torch.testing.assert_close(value, runs["hand"][1][name], rtol=1e-12, atol=1e-12)
    assert toy.identical(runs["code"][2], runs["hand"][2])


def test_it_learns(toy: SimpleNamespace) -> None:
    """λ moves against its hypergradient, and the moved λ has the smaller meta loss."""
    net = toy.make_net(dtype=torch.float64)
    data = toy.make_data(12, 12)
    # Descent on a meta loss needs a small step: here the direction is tested, not the size.
    first = learn_interpolation(
        net, data.batch, data.val_batch, lr=1.0, step_size=0.1, generator=torch.Generator()
    )
    again = learn_interpolation(
        net, data.batch, data.val_batch, lr=1.0, lam=first.lam, partner=first.partner
    )
    assert first.change is not None
    assert first.hypergradient is not None
    assert bool((first.change * first.hypergradient < 0).all())
    torch.testing.assert_close(first.change, first.lam - first.lam_init, rtol=0, atol=1e-12)
    assert float(again.meta_loss) < float(first.meta_loss)  # type: ignore[arg-type]


def test_change_of_the_paper_is_measured_from_the_sigmoid_of_the_start(
    toy: SimpleNamespace,
) -> None:
    data = toy.make_data()
    learned = learn_interpolation(
        toy.make_net(), data.batch, data.val_batch, lr=0.1, reading=PAPER, lam=data.lam
    )
    truth = learned.lam - torch.sigmoid(data.lam)
    torch.testing.assert_close(learned.change, truth, rtol=1e-9, atol=1e-15)
    assert torch.equal(learned.lam_init, data.lam)


def test_meta_steps_repeat_from_the_same_parameters(toy: SimpleNamespace) -> None:
    data, net = toy.make_data(), toy.make_net()
    common = {"lr": 0.3, "partner": data.partner}
    twice = learn_interpolation(
        net, data.batch, data.val_batch, lam=data.lam, reading=Reading(meta_steps=2), **common
    )
    once = learn_interpolation(net, data.batch, data.val_batch, lam=data.lam, **common)
    again = learn_interpolation(net, data.batch, data.val_batch, lam=once.lam, **common)
    torch.testing.assert_close(twice.lam, again.lam, rtol=1e-5, atol=1e-9)
    assert not torch.allclose(twice.lam, once.lam, rtol=1e-3)
    assert (once.extra_samples, twice.extra_samples) == (6 + 5, 2 * (6 + 5))


def test_step_size_overrides_the_reading(toy: SimpleNamespace) -> None:
    data, net = toy.make_data(), toy.make_net()
    common = {"lr": 0.3, "partner": data.partner, "lam": data.lam}
    a = learn_interpolation(net, data.batch, data.val_batch, step_size=0.5, **common)
    b = learn_interpolation(
        net, data.batch, data.val_batch, reading=Reading(step_size=0.5), **common
    )
    assert torch.equal(a.lam, b.lam)
    still = learn_interpolation(net, data.batch, data.val_batch, step_size=0.0, **common)
    torch.testing.assert_close(still.lam, data.lam)


def test_virtual_dropout_masks_are_those_of_the_real_step(toy: SimpleNamespace) -> None:
    """Nothing learned, so virtual and real batch agree: so do their losses, if masks do."""
    net = toy.make_net(drop=True)
    data = toy.make_data()
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    virtual = meta_gradient(
        net, data.batch, data.val_batch, data.lam, data.partner, lr=0.1
    ).virtual_loss
    fixed = {"lam": data.lam, "partner": data.partner}
    result = metamixup_step(net, optimizer, data.batch, data.val_batch, step_size=0.0, **fixed)
    torch.testing.assert_close(result.loss, virtual)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 4), (7, 1), (5, 3), (2, 9)])
@pytest.mark.parametrize("reading", [DEFAULT, PAPER])
def test_any_sizes(n: int, m: int, reading: Reading, toy: SimpleNamespace) -> None:
    data, net = toy.make_data(n, m, dtype=torch.float32), toy.make_net(dtype=torch.float32)
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    result = metamixup_step(net, optimizer, data.batch, data.val_batch, reading=reading)
    assert result.lam.shape == (n,)
    assert bool(((result.lam >= 0) & (result.lam <= 1)).all())
    if n == 1:
        assert result.hypergradient.tolist() == [0.0]  # type: ignore[union-attr]
    assert all(bool(p.isfinite().all()) for p in net.parameters())


def test_inner_step_by_the_optimizer_uses_its_state(toy: SimpleNamespace) -> None:
    net, data = toy.make_net(), toy.make_data()
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    toy.warm_up(net, optimizer)
    common = {"lam": data.lam, "partner": data.partner, "optimizer": optimizer}
    ours, plain = (
        learn_interpolation(
            net, data.batch, data.val_batch, reading=Reading(inner_step=kind), **common
        ).hypergradient
        for kind in ("optimizer", "gradient_descent")
    )
    truth = core.hypergradient(
        net, data.batch, data.val_batch, data.lam, data.partner, optimizer=optimizer
    )
    torch.testing.assert_close(ours, truth)
    assert not torch.allclose(plain, truth, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": None}, "learning rate by `optimizer` or `lr`"),
        ({"optimizer": None, "lr": 0.1, "reading": Reading(inner_step="optimizer")}, "needs `opt"),
        ({"lam": torch.full((6,), -0.5)}, r"lam must lie in \[0, 1\]"),
        ({"partner": torch.zeros(5).long()}, r"partner must be an integer tensor of shape \[6\]"),
        ({"step_size": -1.0}, "step_size must be finite and >= 0"),
        ({"batch": (torch.zeros(6, 4).byte(), torch.zeros(6).long())}, "must be floating point"),
        ({"val_batch": (torch.zeros(6, 4), torch.zeros(5).long())}, "meta-validation labels"),
        ({"engine": "none"}, "engine must be one of"),
        ({"mixing": "area"}, r"mixing must be a core\.Mixing, such as .*; got 'area'"),
        ({"mixing": core.AreaMixing}, r"mixing must be a core\.Mixing"),
        (
            {"reading": "paper", "step_size": 2.0},
            r"reading must be a core\.Reading, .* got 'paper'",
        ),
        ({"lam": 0.5}, r"lam must be a floating tensor of shape \[6\], got 0.5"),
        ({"partner": [1, 0]}, r"partner must be an integer tensor of shape \[6\], got \[1, 0\]"),
        ({"generator": 3}, r"must be a torch\.Generator, got 3; of a seed it is torch\.Gen"),
        ({"autocast": "bf16"}, "autocast='bf16' is no type to compute in; give torch.bfloat16"),
        ({"autocast": torch.float32}, "autocast=torch.float32 is no type to compute in"),
        ({"validation_gradient": 4}, r"must be a core\.ValidationGradient, .* got 4"),
        ({"loss": core.IndexLoss}, "loss must be a function or an instance, got the class IndexL"),
    ],
)
def test_what_cannot_be_is_refused(
    change: dict[str, Any], message: str, toy: SimpleNamespace
) -> None:
    net, data = toy.make_net(), toy.make_data()
    arguments: dict[str, Any] = {
        "model": net,
        "batch": data.batch,
        "val_batch": data.val_batch,
        "optimizer": optim.SGD(net.parameters(), lr=0.1),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        learn_interpolation(**arguments)


def test_placebo_gives_every_sample_anothers_move(toy: SimpleNamespace) -> None:
    """The moves of z are the same multiset, in an order drawn after λ0 and the pairing."""
    reading = Reading(projection="sigmoid_after", gradient="lam", scale="rms", step_size=1.0)
    net, data = toy.make_net(), toy.make_data(16, 8)
    moves = {}
    for permute in (False, True):
        learned = learn_interpolation(
            net,
            data.batch,
            data.val_batch,
            lr=0.3,
            reading=reading,
            permute=permute,
            generator=torch.Generator().manual_seed(9),
        )
        moves[permute] = torch.logit(learned.lam) - learned.lam_init
    torch.testing.assert_close(moves[True].sort().values, moves[False].sort().values)
    generator = torch.Generator().manual_seed(9)
    draws_by_hand(16, generator)
    order = torch.randperm(16, generator=generator)
    torch.testing.assert_close(moves[True], moves[False][order])
    assert not torch.allclose(moves[True], moves[False])


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("scaler", True, "scaler must be a torch.amp.GradScaler, got True"),
        ("optimizer", "a schedule", "optimizer must be one of torch.optim, got StepLR"),
        ("lr", [0.1], r"lr must be one rate, or one for each parameter name, got \[0.1\]"),
        ("lr", torch.ones(2), r"lr must be one rate.*got tensor\(\[1., 1.\]\)"),
        ("step_size", "4", "step_size must be finite and >= 0, got '4'"),
        ("clip_grad_norm", "1", "clip_grad_norm must be above 0, got '1'"),
        ("clip_grad_norm", torch.ones(2), r"clip_grad_norm must be above 0, got tensor\("),
        ("micro_batch", (0.5, 2), r"micro_batch must be \(i, k\).*got \(0.5, 2\)"),
        ("micro_batch", ("0", "2"), r"micro_batch must be \(i, k\).*got \('0', '2'\)"),
        ("last_blocks", "1", "last_blocks must lie in .*got '1'"),
        ("last_blocks", 1.0, "last_blocks must lie in .*got 1.0"),
    ],
)
def test_what_is_of_another_type_is_refused_before_anything_is_drawn(
    argument: str, value: Any, message: str, toy: SimpleNamespace
) -> None:
    net, data = toy.make_net(), toy.make_data()
    given: Any = {"optimizer": optim.SGD(net.parameters(), lr=0.1)}
    if value == "a schedule":
        value = optim.lr_scheduler.StepLR(given["optimizer"], 1)
    before, stream = toy.snapshot(net), torch.get_rng_state()
    given |= {argument: value}
    with pytest.raises(ValueError, match=message):
        metamixup_step(net, batch=data.batch, val_batch=data.val_batch, **given)
    assert toy.identical(before, toy.snapshot(net))
    assert torch.equal(stream, torch.get_rng_state())


def test_a_step_without_mixing_is_refused_in_inference_mode_too(toy: SimpleNamespace) -> None:
    net, data = toy.make_net(), toy.make_data()
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    unmixed = core.NoMix()(net, optimizer, data.batch)
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode forbids"):
        core.mixed_step(net, optimizer, data.batch, unmixed)
