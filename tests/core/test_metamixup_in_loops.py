"""The step among what real loops bring along: optimizers, clipping, low precision, compile."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from core.interpolation import Interpolation
from core.metamixup import metamixup_step, mixed_step


def optimizer_classes() -> list[Any]:
    members = [c for _, c in inspect.getmembers(optim, inspect.isclass)]
    return [c for c in members if issubclass(c, optim.Optimizer) and c is not optim.Optimizer]


@pytest.mark.parametrize("kind", optimizer_classes(), ids=lambda kind: kind.__name__)
def test_every_optimizer_of_torch_takes_the_real_step(kind: Any, toy: SimpleNamespace) -> None:
    net = toy.make_net()
    if kind.__name__ == "Muon":  # takes matrices only
        for layer in (net.inp, net.hidden, net.out):
            layer.register_parameter("bias", None)
    data = toy.make_data()
    optimizer = kind(net.parameters())
    rate = optimizer.param_groups[0]["lr"]
    if kind is optim.SparseAdam:  # a limit of its own, in its own words
        with pytest.raises(RuntimeError, match=r"does not support dense gradients.*Adam"):
            metamixup_step(net, optimizer, data.batch, data.val_batch)
        return
    for _ in range(2):
        before = [p.detach().clone() for p in net.parameters()]
        twin = copy.deepcopy(net)
        twin_optimizer = kind(twin.parameters())
        twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        result = metamixup_step(net, optimizer, data.batch, data.val_batch)
        assert float(result.hypergradient.abs().max()) > 0  # type: ignore[union-attr]
        assert optimizer.param_groups[0]["lr"] == rate
        lam, j = result.lam[:, None], result.partner
        x, y = data.batch[0], toy.one_hot(data.batch[1])

        def closure() -> Tensor:
            twin_optimizer.zero_grad()  # noqa: B023
            logits = twin(lam * x + (1 - lam) * x[j])  # noqa: B023
            loss = F.cross_entropy(logits, lam * y + (1 - lam) * y[j])  # noqa: B023
            loss.backward()
            return loss

        truth = twin_optimizer.step(closure)
        assert float(result.loss) == pytest.approx(float(truth.detach()), rel=1e-12)
        for p, q in zip(net.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)
        assert not toy.identical([p.detach() for p in net.parameters()], before)


def test_lbfgs_refuses_a_grad_scaler(toy: SimpleNamespace) -> None:
    net, data = toy.make_net(), toy.make_data()
    before = toy.snapshot(net)
    optimizer = optim.LBFGS(net.parameters())
    scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(ValueError, match=r"LBFGS.*GradScaler; leave `scaler` out"):
        metamixup_step(net, optimizer, data.batch, data.val_batch, scaler=scaler)
    assert toy.identical(before, toy.snapshot(net))
    disabled = torch.amp.GradScaler("cpu", enabled=False)
    metamixup_step(net, optimizer, data.batch, data.val_batch, scaler=disabled)


def test_clipping_by_hand(toy: SimpleNamespace) -> None:
    data = toy.make_data()
    interpolation = Interpolation(data.lam, data.partner, data.lam)
    for limit in (0.01, 1e6):
        net = toy.make_net()
        start = [p.detach().clone() for p in net.parameters()]
        lam = data.lam[:, None]
        x, y = data.batch[0], toy.one_hot(data.batch[1])
        mixed, target = lam * x + (1 - lam) * x[data.partner], lam * y + (1 - lam) * y[data.partner]
        gradient = torch.autograd.grad(F.cross_entropy(net(mixed), target), list(net.parameters()))
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradient))
        factor = min(1.0, limit / norm)
        assert (factor < 1) == (limit == 0.01)
        optimizer = optim.SGD(net.parameters(), lr=0.5)
        mixed_step(net, optimizer, data.batch, interpolation, clip_grad_norm=limit)
        for p, before, g in zip(net.parameters(), start, gradient, strict=True):
            torch.testing.assert_close(p.detach(), before - 0.5 * factor * g, rtol=1e-5, atol=1e-9)


def test_old_gradients_do_not_enter(toy: SimpleNamespace) -> None:
    data = toy.make_data()
    nets = [toy.make_net(), toy.make_net()]
    for p in nets[1].parameters():
        p.grad = torch.full_like(p, 1e3)
    for net in nets:
        optimizer = optim.SGD(net.parameters(), lr=0.1)
        metamixup_step(net, optimizer, data.batch, data.val_batch, generator=torch.Generator())
    assert toy.identical(toy.snapshot(nets[0]), toy.snapshot(nets[1]))


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.double(), b.double(), dim=0))


def test_bfloat16_autocast(toy: SimpleNamespace) -> None:
    data = toy.make_data(32, 32, dtype=torch.float32)
    results = {}
    for dtype in (None, torch.bfloat16):
        net = toy.make_net(norm=True, dtype=torch.float32)
        optimizer = optim.SGD(net.parameters(), lr=0.1)
        results[dtype] = metamixup_step(
            net,
            optimizer,
            data.batch,
            data.val_batch,
            lam=data.lam,
            partner=data.partner,
            autocast=dtype,
        )
        assert all(p.dtype == torch.float32 for p in net.parameters())
    exact, low = results[None], results[torch.bfloat16]
    assert low.lam.dtype == low.hypergradient.dtype == torch.float32
    assert not torch.equal(low.hypergradient, exact.hypergradient)
    assert cosine(low.hypergradient, exact.hypergradient) > 0.99
    assert float(low.loss) == pytest.approx(float(exact.loss), rel=0.02)


def test_autocast_of_the_caller_holds(toy: SimpleNamespace) -> None:
    data = toy.make_data(8, 8, dtype=torch.float32)
    results = []
    for inside in (False, True):
        net = toy.make_net(dtype=torch.float32)
        optimizer = optim.SGD(net.parameters(), lr=0.1)
        arguments: dict[str, Any] = {"generator": torch.Generator().manual_seed(2)}
        if inside:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                result = metamixup_step(net, optimizer, data.batch, data.val_batch, **arguments)
        else:
            arguments["autocast"] = torch.bfloat16
            result = metamixup_step(net, optimizer, data.batch, data.val_batch, **arguments)
        results.append(result)
    assert toy.identical(vars(results[0]), vars(results[1]))


def float16_step(scaler: Any, toy: SimpleNamespace) -> SimpleNamespace:
    net = toy.make_net(norm=True, dtype=torch.float32)
    start = toy.snapshot(net)
    optimizer = optim.SGD(net.parameters(), lr=0.5)
    data = toy.make_data(16, 16, dtype=torch.float32)
    result = metamixup_step(
        net,
        optimizer,
        data.batch,
        data.val_batch,
        generator=torch.Generator().manual_seed(3),
        autocast=torch.float16 if scaler is not None else None,
        scaler=scaler,
        clip_grad_norm=0.05,
    )
    return SimpleNamespace(net=net, start=start, result=result)


def test_float16_with_a_grad_scaler(toy: SimpleNamespace) -> None:
    exact = float16_step(None, toy)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    low = float16_step(scaler, toy)
    assert scaler.get_scale() == 2.0**10
    assert cosine(low.result.hypergradient, exact.result.hypergradient) > 0.999
    torch.testing.assert_close(low.result.loss, exact.result.loss, rtol=0.01, atol=0)
    for a, b in zip(low.net.parameters(), exact.net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-4)
    moved = (low.net.out.weight.detach() - low.start["parameters"]["out.weight"]).abs().max()
    assert float(moved) > 2e-3


def test_float16_overflow_skips_the_step_and_poisons_nothing(toy: SimpleNamespace) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    step = float16_step(scaler, toy)
    assert not bool(step.result.hypergradient.isfinite().all())  # it did overflow
    assert scaler.get_scale() == 2.0**39
    assert toy.identical(toy.snapshot(step.net)["parameters"], step.start["parameters"])
    assert bool(step.result.lam.isfinite().all())
    torch.testing.assert_close(step.result.lam, step.result.lam_init)
    assert all(bool(b.isfinite().all()) for b in step.net.buffers())


def test_a_compiled_model_steps_like_itself(toy: SimpleNamespace) -> None:
    snapshots = []
    for compiled in (False, True):
        net = toy.make_net(norm=True, drop=True)
        model = torch.compile(net, backend="eager") if compiled else net
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        data = toy.make_data()
        torch.manual_seed(3)
        for _ in range(2):
            metamixup_step(model, optimizer, data.batch, data.val_batch)
        snapshots.append(toy.snapshot(net, optimizer))
    torch.testing.assert_close(snapshots[0]["parameters"], snapshots[1]["parameters"])
    torch.testing.assert_close(snapshots[0]["buffers"], snapshots[1]["buffers"])


def test_several_devices_are_refused(toy: SimpleNamespace) -> None:
    net, data = toy.make_net(), toy.make_data()
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    parallel: nn.Module = nn.DataParallel(net)
    with pytest.raises(ValueError, match=r"DataParallel.*`\.module`"):
        metamixup_step(parallel, optimizer, data.batch, data.val_batch)


@pytest.mark.parametrize(
    ("make", "shape", "layout"),
    [
        (
            lambda: nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(),
                nn.Linear(36, 3),
            ),
            (3, 5, 5),
            torch.channels_last,
        ),
        (lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(20, 3)),
         (2, 7), torch.contiguous_format),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(24, 3)), (2, 3, 2, 2),
         torch.contiguous_format),
    ],
)  # fmt: skip
def test_inputs_of_any_shape_and_layout(
    make: Callable[[], nn.Module], shape: tuple[int, ...], layout: Any
) -> None:
    model = make().to(memory_format=layout)
    x = torch.randn(6, *shape).to(memory_format=layout)
    x_val = torch.randn(4, *shape).to(memory_format=layout)
    y, y_val = torch.randint(3, (6,)), torch.randint(3, (4,))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    seen: list[bool] = []
    model.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].is_contiguous(memory_format=layout))
    )
    result = metamixup_step(model, optimizer, (x, y), (x_val, y_val))
    assert seen == [True] * 3  # virtual, validation, real
    paired = result.partner != torch.arange(6)
    assert ((result.hypergradient != 0) == paired).all()
