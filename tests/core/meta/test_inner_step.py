"""θ′ of the differentiable step against the real optimizer's own `.step()`, in float64."""

from __future__ import annotations

import copy
import inspect
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import higher
import pytest
import torch
from torch import nn, optim

from core.meta.inner_step import current_rates, descend, differentiable, gradient_descent
from core.meta.reading import Reading
from core.metamixup import metamixup_step

OPTIMIZERS: dict[str, tuple[type[optim.Optimizer], dict[str, Any]]] = {
    "sgd": (optim.SGD, {"lr": 0.1}),
    "sgd_decay": (optim.SGD, {"lr": 0.1, "weight_decay": 0.03}),
    "sgd_momentum": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.03}),
    "sgd_dampening": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.4}),
    "sgd_nesterov": (
        optim.SGD,
        {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.03},
    ),
    "sgd_tensor_rate": (optim.SGD, {"lr": torch.tensor(0.125), "momentum": 0.9}),
    "adam": (optim.Adam, {"lr": 0.01}),
    "adam_decay": (optim.Adam, {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.9)}),
    "adam_epsilon": (optim.Adam, {"lr": 0.01, "eps": 0.1}),
    "adam_amsgrad": (optim.Adam, {"lr": 0.01, "amsgrad": True, "eps": 0.01}),
    "adamw": (optim.AdamW, {"lr": 0.01}),
    "adamw_decay": (optim.AdamW, {"lr": 0.01, "weight_decay": 0.3, "eps": 0.01}),
    "adamw_amsgrad": (optim.AdamW, {"lr": 0.01, "weight_decay": 0.3, "amsgrad": True}),
    "adagrad": (optim.Adagrad, {"lr": 0.01, "lr_decay": 0.1, "weight_decay": 0.1}),
    "adadelta": (optim.Adadelta, {"lr": 0.5, "weight_decay": 0.1}),
    "adamax": (optim.Adamax, {"lr": 0.01, "weight_decay": 0.1}),
    "asgd": (optim.ASGD, {"lr": 0.01, "weight_decay": 0.1}),
    "rmsprop": (optim.RMSprop, {"lr": 0.01, "momentum": 0.9, "centered": True}),
    "rprop": (optim.Rprop, {"lr": 0.01}),
}


def loss_of(net: nn.Module, toy: SimpleNamespace) -> torch.Tensor:
    x, y = toy.make_data().batch
    return torch.nn.functional.cross_entropy(net(x), y)


def real_step(net: nn.Module, optimizer: optim.Optimizer, toy: SimpleNamespace) -> list[Any]:
    """Returns the parameters after the real optimizer's step, taken on a copy of both."""
    net, optimizer = copy.deepcopy((net, optimizer))
    optimizer.zero_grad()
    loss_of(net, toy).backward()
    optimizer.step()
    return [p.detach() for p in net.parameters()]


def virtual_step(net: nn.Module, optimizer: optim.Optimizer, toy: SimpleNamespace) -> list[Any]:
    parameters = list(net.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # `higher` on RMSprop and Rprop
        step = differentiable(optimizer, parameters)
    return [p.detach() for p in step.step(loss_of(net, toy), params=parameters)]


def assert_same_step(net: nn.Module, optimizer: optim.Optimizer, toy: SimpleNamespace) -> None:
    before = toy.snapshot(net, optimizer)
    virtual = virtual_step(net, optimizer, toy)
    assert toy.identical(before, toy.snapshot(net, optimizer))
    real = real_step(net, optimizer, toy)
    start = list(before["parameters"].values())
    moved = [bool((a - b).abs().max() > 1e-6) for a, b in zip(real, start, strict=True)]
    assert any(moved)
    for a, b in zip(virtual, real, strict=True):
        # torch keeps ASGD's rate as a float32 tensor.
        relative = 1e-7 if isinstance(optimizer, optim.ASGD) else 1e-12
        torch.testing.assert_close(a, b, rtol=relative, atol=relative / 10)


@pytest.mark.parametrize("warm", [0, 5])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_is_the_optimizers_own_step(name: str, warm: int, toy: SimpleNamespace) -> None:
    net = toy.make_net()
    kind, settings = OPTIMIZERS[name]
    optimizer = kind(net.parameters(), **settings)
    toy.warm_up(net, optimizer, warm)
    assert_same_step(net, optimizer, toy)


@pytest.mark.parametrize("kind", [optim.Adam, optim.AdamW])
def test_parameters_of_one_group_at_different_step_counts(kind: Any, toy: SimpleNamespace) -> None:
    """A layer unfrozen late: Adam's bias correction, and with it ε, is that parameter's own."""
    net = toy.make_net()
    optimizer = kind(net.parameters(), lr=0.01, eps=0.1)
    net.out.requires_grad_(False)
    toy.warm_up(net, optimizer, 4)
    net.out.requires_grad_(True)
    toy.warm_up(net, optimizer, 1)
    assert {int(s["step"]) for s in optimizer.state.values()} == {1, 5}
    assert_same_step(net, optimizer, toy)


def test_gradient_descent_by_hand() -> None:
    theta = [torch.tensor([1.0, 2.0]), torch.tensor([3.0])]
    gradient = [torch.tensor([10.0, -10.0]), torch.tensor([2.0])]
    stepped = descend(theta, gradient, [0.125, 0.5])
    assert [p.tolist() for p in stepped] == [[-0.25, 3.25], [2.0]]
    leaves = [p.requires_grad_() for p in theta]
    linear = sum((p * g).sum() for p, g in zip(leaves, gradient, strict=True))
    unrolled = gradient_descent(leaves, [0.1, 0.5]).step(linear, params=leaves)
    assert [p.tolist() for p in unrolled] == [[0.0, 3.0], [2.0]]


def test_current_rates_follow_groups_and_scheduler(toy: SimpleNamespace) -> None:
    net = toy.make_net(unused=True)
    optimizer = optim.SGD(
        [{"params": net.inp.parameters(), "lr": 0.4}, {"params": net.hidden.parameters()}], lr=0.2
    )
    scheduler = optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    optimizer.step()
    scheduler.step()
    rates = current_rates(optimizer, dict(net.named_parameters()))
    assert rates == {
        "unused": 0.0,
        "inp.weight": 0.2,
        "inp.bias": 0.2,
        "hidden.weight": 0.1,
        "hidden.bias": 0.1,
        "out.weight": 0.0,
        "out.bias": 0.0,
    }


class MySGD(optim.SGD):
    """A user's subclass, whose step `higher` cannot know."""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: optim.NAdam(p), "no differentiable form of NAdam"),
        (lambda p: optim.RAdam(p), "no differentiable form of RAdam"),
        (lambda p: optim.LBFGS(p), "no differentiable form of LBFGS"),
        (lambda p: MySGD(p, lr=0.1), "no differentiable form of MySGD"),
        pytest.param(
            lambda p: optim.Adam(p, weight_decay=0.1, decoupled_weight_decay=True),
            "use torch.optim.AdamW",
            marks=pytest.mark.skipif(
                "decoupled_weight_decay" not in inspect.signature(optim.Adam).parameters,
                reason="this torch has no such Adam",
            ),
        ),
    ],
)
def test_optimizers_without_differentiable_form_are_refused(make: Any, message: str) -> None:
    p = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=f'{message}.*inner_step="gradient_descent"'):
        differentiable(make([p]), [p])


@pytest.mark.parametrize("make", [optim.Adam, optim.AdamW, optim.Adagrad, optim.RMSprop])
def test_complex_parameters_are_refused_of_optimizers_that_square_them(make: Any) -> None:
    """`higher` keeps g², torch the squares of real and imaginary part."""
    p = nn.Parameter(torch.ones(2, dtype=torch.complex128))
    with pytest.raises(ValueError, match="complex parameters here; use Reading"):
        differentiable(make([p], lr=0.1), [p])


@pytest.mark.parametrize(
    "settings", [{}, {"lr": 0.1}, {"reading": Reading(inner_step="optimizer")}]
)
def test_an_optimizer_that_climbs_is_refused_however_the_virtual_step_is_taken(
    settings: Any, toy: SimpleNamespace
) -> None:
    """Its loss has the other sign, so that λ would be learned to make the validation loss worse."""
    net, data = toy.make_net(), toy.make_data()
    groups = [{"params": net.inp.parameters()}, {"params": net.out.parameters(), "maximize": True}]
    optimizer = optim.SGD(groups, lr=0.1)
    before = toy.snapshot(net, optimizer)
    with pytest.raises(ValueError, match=r"SGD\(maximize=True\) climbs.*other sign"):
        metamixup_step(net, optimizer, data.batch, data.val_batch, **settings)
    assert toy.identical(before, toy.snapshot(net, optimizer))


@pytest.mark.parametrize("when", ["pre", "post"])
def test_hooks_around_the_optimizers_step_are_refused_where_it_is_copied(
    when: str, toy: SimpleNamespace
) -> None:
    net, data = toy.make_net(), toy.make_data()
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    getattr(optimizer, f"register_step_{when}_hook")(lambda *_: None)
    reading = Reading(inner_step="optimizer")
    with pytest.raises(ValueError, match=r"SGD has hooks around its step.*gradient_descent"):
        metamixup_step(net, optimizer, data.batch, data.val_batch, reading=reading)
    metamixup_step(net, optimizer, data.batch, data.val_batch)  # takes but the rate


def test_a_foreign_parameter_is_refused() -> None:
    p, foreign = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(7))
    with pytest.raises(ValueError, match=r"holds a parameter of shape \[7\] that is not the"):
        differentiable(optim.SGD([p, foreign], lr=0.1), [p])


def nobody_steps_here(self: Any, closure: Any = None) -> None:
    raise AssertionError("nobody steps here")


@pytest.mark.parametrize(
    "package", [None, "accelerate.optimizer", "lightning.pytorch.core.optimizer"]
)
def test_a_training_librarys_wrapper_steps_like_what_it_wraps(
    package: str | None, toy: SimpleNamespace
) -> None:
    """None: a subclass made on the fly. The torch optimizer is its attribute."""
    nets = [toy.make_net(), toy.make_net()]
    plain, inner = (optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.3) for net in nets)
    if package is None:
        wrapper = type("WrappedAdamW", (type("Wrapper", (), {}), optim.AdamW), {})
    else:
        members = {"step": nobody_steps_here, "__module__": package}
        wrapper = type("Wrapper", (optim.Optimizer,), members)
    wrapped = object.__new__(wrapper)
    wrapped.__dict__ = {**inner.__dict__, "optimizer": inner}
    for a, b in zip(
        virtual_step(nets[0], plain, toy), virtual_step(nets[1], wrapped, toy), strict=True
    ):
        assert torch.equal(a, b)


def test_a_wrapper_with_a_step_of_its_own_is_refused(toy: SimpleNamespace) -> None:
    class Lookahead(optim.Optimizer):
        def __init__(self, inner: optim.Optimizer):
            super().__init__(inner.param_groups, {})
            self.optimizer = inner

        step = nobody_steps_here

    net = toy.make_net()
    inner = optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"Lookahead wraps SGD and has a step of its own.*`lr`"):
        differentiable(Lookahead(inner), list(net.parameters()))


def test_core_is_imported_where_nothing_was_compiled_and_warnings_are_errors(
    tmp_path: Path,
) -> None:
    """As after an installation by uv: the library's lines with an invalid escape are compiled."""
    shutil.copytree(
        Path(higher.__file__).parent, tmp_path / "higher", ignore=lambda *_: ["__pycache__"]
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [
            sys.executable,
            "-B",
            "-W",
            "error",
            "-c",
            "import core.meta.inner_step, higher; print(higher.__file__)",
        ],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)
