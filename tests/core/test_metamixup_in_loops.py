"""The step among what real loops bring along: optimizers, clipping, low precision, compile."""

from __future__ import annotations

import copy
import inspect
import math
import shutil
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from core.meta.gradient import hypergradient
from core.metamixup import metamixup_step
from core.mixing.area import AreaMixing
from core.mixing.hidden import HiddenMixing
from core.mixing.interpolation import Interpolation
from core.mixing.kinds import INPUT
from core.mixing.losses import IndexLoss
from core.mixing.real_step import mixed_step
from tests.support.differences import differences
from tests.support.losses import focal


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
    exact = float16_step(None, toy)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    step = float16_step(scaler, toy)
    assert scaler.get_scale() == 2.0**39  # it did overflow
    assert toy.identical(toy.snapshot(step.net)["parameters"], step.start["parameters"])
    # The meta stage was taken again at a smaller scale.
    assert cosine(step.result.hypergradient, exact.result.hypergradient) > 0.999
    assert bool(step.result.lam.isfinite().all())
    assert all(bool(b.isfinite().all()) for b in step.net.buffers())


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


# Losses and kinds of mixing: each written out by hand as the loss of the virtual batch.


def linear_mix(a: Tensor, lam: Tensor, j: Tensor) -> Tensor:
    weight = lam.view(-1, *[1] * (a.dim() - 1))
    return weight * a + (1 - weight) * a[j]


def cut_and_paste(x: Tensor, lam: Tensor, j: Tensor, position: Tensor) -> Tensor:
    """x [B, C, L] with an interval of length (1 − λ)·L from the partner."""
    length = x.shape[2]
    start = position[:, :1] * lam[:, None] * length
    end = start + (1 - lam[:, None]) * length
    left = torch.arange(length, dtype=x.dtype)
    pasted = (torch.minimum(end, left + 1) - torch.maximum(start, left)).clamp(0, 1)[:, None]
    return (1 - pasted) * x + pasted * x[j]


def hidden_by_hand(net: Any, x: Tensor, lam: Tensor, j: Tensor) -> Tensor:
    h = linear_mix(net.hidden(torch.tanh(net.inp(x))), lam, j)
    out: Tensor = net.out(torch.tanh(h))
    return out


def case_of(kind: str, toy: SimpleNamespace) -> SimpleNamespace:
    """Returns a network, batches, options of the step, and `virtual(net, lam)`,
    `validation(net)`."""
    net, data = toy.make_net(), toy.make_data()
    loss: Any = F.cross_entropy
    x, j = data.batch[0], data.partner
    y = toy.one_hot(data.batch[1])

    def virtual(net: Any, lam: Tensor) -> Tensor:
        value: Tensor = loss(net(linear_mix(x, lam, j)), linear_mix(y, lam, j))
        return value

    if kind == "loss of integers":
        options, index = {"loss": IndexLoss(focal)}, data.batch[1]

        def loss(logits: Tensor, y: Tensor) -> Tensor:
            return focal(logits, y).mean()

        def virtual(net: Any, lam: Tensor) -> Tensor:
            logits = net(linear_mix(x, lam, j))
            return (lam * focal(logits, index) + (1 - lam) * focal(logits, index[j])).mean()

    elif kind == "regression":
        options, loss = {"loss": F.mse_loss}, F.mse_loss
        y = torch.randn(6, 3, dtype=torch.float64)
        data.batch = x, y
        data.val_batch = data.val_batch[0], torch.randn(5, 3, dtype=torch.float64)
    elif kind == "area":
        net = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(20, 3)).double()
        x = torch.randn(6, 2, 7, dtype=torch.float64)
        data.batch = x, data.batch[1]
        data.val_batch = torch.randn(5, 2, 7, dtype=torch.float64), data.val_batch[1]
        position = torch.rand(6, 1, dtype=torch.float64)
        options = {"mixing": AreaMixing(position)}

        def virtual(net: Any, lam: Tensor) -> Tensor:
            return F.cross_entropy(net(cut_and_paste(x, lam, j, position)), linear_mix(y, lam, j))

    elif kind == "hidden":
        options = {"mixing": HiddenMixing("hidden")}

        def virtual(net: Any, lam: Tensor) -> Tensor:
            return F.cross_entropy(hidden_by_hand(net, x, lam, j), linear_mix(y, lam, j))

    def validation(net: Any) -> Tensor:
        value: Tensor = loss(net(data.val_batch[0]), data.val_batch[1])
        return value

    return SimpleNamespace(
        net=net, data=data, options=options, virtual=virtual, validation=validation
    )


@pytest.mark.parametrize("kind", ["loss of integers", "regression", "area", "hidden"])
def test_losses_and_mixings_by_hand(kind: str, toy: SimpleNamespace) -> None:
    """The hypergradient by central differences of real copies, the real step by formulas."""
    case, rate, epsilon = case_of(kind, toy), 0.3, 1e-5
    start = copy.deepcopy(case.net)

    def meta_loss(lam: Tensor) -> float:
        net = copy.deepcopy(start)
        optimizer = optim.SGD(net.parameters(), lr=rate)
        case.virtual(net, lam).backward()
        optimizer.step()
        with torch.no_grad():
            return float(case.validation(net))

    optimizer = optim.SGD(case.net.parameters(), lr=rate)
    result = metamixup_step(case.net, optimizer, **vars(case.data), **case.options)
    lam = case.data.lam
    truth = differences(meta_loss, lam, epsilon)
    assert float(truth.abs().min()) > 1e-5
    torch.testing.assert_close(result.hypergradient, truth, rtol=1e-5, atol=1e-9)
    assert float(result.meta_loss) == pytest.approx(meta_loss(lam), rel=1e-9)  # type: ignore[arg-type]

    loss = case.virtual(start, result.lam)
    torch.testing.assert_close(result.loss, loss.detach(), rtol=1e-9, atol=0)
    gradient = torch.autograd.grad(loss, list(start.parameters()))
    for p, before, g in zip(case.net.parameters(), start.parameters(), gradient, strict=True):
        torch.testing.assert_close(p.detach(), before.detach() - rate * g, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("how", ["outside", "in place"])
def test_mixing_at_a_hidden_layer_of_a_compiled_model(how: str, toy: SimpleNamespace) -> None:
    case, twin = case_of("hidden", toy), case_of("hidden", toy)
    model: Any = case.net
    if how == "outside":
        model = torch.compile(case.net, backend="eager")
    else:
        case.net.compile(backend="eager")
    model(case.data.batch[0])  # the graph without the hook is there
    results = [
        metamixup_step(
            m, optim.SGD(m.parameters(), lr=0.3), **vars(case.data), **case.options
        )
        for m in (model, twin.net)
    ]  # fmt: skip
    for field, value in vars(results[0]).items():
        torch.testing.assert_close(value, getattr(results[1], field), rtol=1e-10, atol=1e-12)
    for p, q in zip(case.net.parameters(), twin.net.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("how", ["outside", "in place"])
def test_a_compiled_model_steps_like_itself(how: str, toy: SimpleNamespace) -> None:
    results = []
    for compiled in (False, True):
        net, data = toy.make_net(norm=True, drop=True), toy.make_data()
        model: Any = net
        if compiled and how == "outside":
            model = torch.compile(net, backend="eager")
        elif compiled:
            net.compile(backend="eager")
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        torch.manual_seed(3)
        for _ in range(2):
            result = metamixup_step(model, optimizer, data.batch, data.val_batch)
        results.append([*net.parameters(), *net.buffers(), *vars(result).values()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # of inductor itself
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_a_model_compiled_to_code() -> None:
    """By inductor; the real step runs its code, the meta stage the plain module."""
    results = []
    for compiled in (False, True):
        torch.manual_seed(1)
        net = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)
        )
        x, y = torch.randn(12, 2, 5, 5), torch.randint(3, (12,))
        model: Any = torch.compile(net) if compiled else net
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(2):
            result = metamixup_step(model, optimizer, (x[:7], y[:7]), (x[7:], y[7:]))
        results.append([*net.parameters(), *net.buffers(), *vars(result).values()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("mixing", "engine"),
    [
        *((mixing, "double_backward") for mixing in (INPUT, AreaMixing(), HiddenMixing("1"))),
        (INPUT, "forward_reverse"),
        (INPUT, "finite_difference"),
    ],
    ids=str,
)
def test_channels_last_is_only_a_layout(mixing: Any, engine: Any) -> None:
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(1)
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.MaxPool2d(2),
            nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(20, 3),
        ).double()  # fmt: skip
        x, y = torch.randn(10, 3, 9, 8, dtype=torch.float64), torch.randint(3, (10,))
        net, x = net.to(memory_format=layout), x.to(memory_format=layout)  # type: ignore[call-overload]
        kept: list[bool] = []

        def look(
            module: nn.Module, args: Any, out: Tensor, layout: Any = layout, kept: list[bool] = kept
        ) -> None:
            kept.append(out.is_contiguous(memory_format=layout))

        handle = net[2].register_forward_hook(look)
        optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        result = metamixup_step(
            net, optimizer, (x[:6], y[:6]), (x[6:], y[6:]), mixing=mixing, engine=engine
        )
        handle.remove()
        assert len(kept) >= 3
        assert all(kept)
        assert net[0].weight.is_contiguous(memory_format=layout)
        results.append([*net.parameters(), *net.buffers(), *vars(result).values()])
    exact = engine != "finite_difference"
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(
            a, b, rtol=1e-9 if exact else 1e-4, atol=1e-10 if exact else 1e-6
        )


def test_one_sample_and_batch_norm(toy: SimpleNamespace) -> None:
    """Torch's own words, before anything moves; in evaluation mode there is no trouble."""
    for n, m in [(1, 4), (4, 1)]:
        net, data = toy.make_net(norm=True), toy.make_data(n, m)
        optimizer = optim.SGD(net.parameters(), lr=0.1)
        before = toy.snapshot(net, optimizer)
        with pytest.raises(ValueError, match=r"Expected more than 1 value per channel when train"):
            metamixup_step(net, optimizer, data.batch, data.val_batch)
        assert toy.identical(before, toy.snapshot(net, optimizer))
        metamixup_step(net.eval(), optimizer, data.batch, data.val_batch)
        assert not toy.identical(before["parameters"], toy.snapshot(net)["parameters"])


def test_one_image_and_batch_norm_over_its_pixels() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 3))
    x, y = torch.randn(2, 2, 5, 5), torch.tensor([0, 2])
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    result = metamixup_step(net, optimizer, (x[:1], y[:1]), (x[1:], y[1:]))
    assert result.hypergradient.tolist() == [0.0]  # type: ignore[union-attr]
    torch.testing.assert_close(result.lam, result.lam_init)


def test_parameter_groups_and_a_scheduler(toy: SimpleNamespace) -> None:
    """Rates and decays of three groups, one frozen, that a scheduler changes between steps."""

    def build() -> Any:
        net = toy.make_net()
        net.hidden.requires_grad_(False)
        optimizer = optim.AdamW(
            [
                {"params": net.inp.parameters(), "lr": 0.1, "weight_decay": 0.3},
                {"params": net.hidden.parameters(), "lr": 0.7},
                {"params": net.out.parameters(), "weight_decay": 0.0},
            ],
            lr=0.02,
        )
        return net, optimizer, optim.lr_scheduler.OneCycleLR(optimizer, [0.2, 0.9, 0.3], 5)

    (net, optimizer, scheduler), (twin, twin_optimizer, twin_scheduler) = build(), build()
    frozen, used = net.hidden.weight.detach().clone(), []
    for step in range(4):
        data = toy.make_data(seed=step)
        rates = [group["lr"] for group in twin_optimizer.param_groups]
        used.append(rates)
        by_name = dict(zip(("inp", "hidden", "out"), rates, strict=True))
        truth = hypergradient(
            twin, **vars(data), lr={n: by_name[n.split(".")[0]] for n, _ in twin.named_parameters()}
        )
        result = metamixup_step(net, optimizer, **vars(data))
        scheduler.step()
        torch.testing.assert_close(result.hypergradient, truth, rtol=1e-10, atol=0)
        lam, j = result.lam, result.partner
        x, y = data.batch[0], toy.one_hot(data.batch[1])
        twin_optimizer.zero_grad()
        F.cross_entropy(twin(linear_mix(x, lam, j)), linear_mix(y, lam, j)).backward()
        twin_optimizer.step()
        twin_scheduler.step()
        for p, q in zip(net.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)
    assert torch.equal(net.hidden.weight, frozen)
    assert net.hidden.weight.grad is None
    assert len({tuple(rates) for rates in used}) == 4
