"""The truth is the toy network as formulas, its loss written out, differentiated by autograd."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.semi_supervised.config import SemiKind, SemiSupervisedConfig
from core.semi_supervised.consistency import MeanTeacher, PiModel
from core.semi_supervised.method import SemiBatch

B, U, RATE, DECAY = 4, 3, 0.3, 0.75


def config(kind: SemiKind, **settings: Any) -> SemiSupervisedConfig:
    return SemiSupervisedConfig(kind, labelled=B, **settings)


def mean_teacher(start: nn.Module, **settings: Any) -> MeanTeacher:
    return MeanTeacher(config("mean-teacher", ema=DECAY, **settings), start)


def make_batch(toy: SimpleNamespace, progress: float = 0.0) -> SemiBatch:
    (x, y), views = toy.make_data(B).batch, [toy.make_data(U, seed=s).batch[0] for s in (2, 3)]
    return SemiBatch((x, y), tuple(views), torch.arange(B + U), None, 0, progress)


def take_step(
    method: PiModel | MeanTeacher, net: nn.Module, batch: SemiBatch
) -> tuple[dict[str, Tensor], float]:
    """Returns the parameters before the step, and its loss."""
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    step = method.step(net, optimizer, batch, generator=torch.Generator())
    assert not step.loss.requires_grad
    assert step.samples == 2 * (B + U)
    return before, float(step.loss)


def expected_step(
    toy: SimpleNamespace,
    net: nn.Module,
    batch: SemiBatch,
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor],
    weight: float,
    masks: tuple[Tensor | None, Tensor | None] = (None, None),
) -> tuple[dict[str, Tensor], float]:
    """Returns parameters after one step of gradient descent, and the loss, from formulas."""
    (x, y), (first, second) = batch.labelled, batch.views
    theta = {name: p.detach().clone().requires_grad_() for name, p in student.items()}
    logits = toy.explicit_logits(net, theta, torch.cat([x, first]), masks[0])
    taught = toy.explicit_logits(net, teacher, torch.cat([x, second]), masks[1])[B:]
    p, q = (torch.exp(z) / torch.exp(z).sum(1, keepdim=True) for z in (logits[B:], taught.detach()))
    distance = ((p - q) ** 2).sum() / (U * toy.CLASSES)
    loss = toy.explicit_loss(logits[:B], toy.one_hot(y)) + weight * distance
    slopes = torch.autograd.grad(loss, list(theta.values()))
    after = {n: p.detach() - RATE * g for (n, p), g in zip(theta.items(), slopes, strict=True)}
    return after, loss.item()


def assert_close(net: nn.Module, expected: Mapping[str, Tensor]) -> None:
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("drop", [False, True])
def test_pi_model_takes_the_step_of_the_formulas(
    norm: bool, drop: bool, toy: SimpleNamespace
) -> None:
    net, batch = toy.make_net(norm=norm, drop=drop), make_batch(toy, progress=0.1)
    masks = tuple(toy.masks(net, (B + U, B + U)))
    before, loss = take_step(
        PiModel(config("pi-model", weight=20.0, ramp="linear", ramp_share=0.4)), net, batch
    )
    after, expected = expected_step(toy, net, batch, before, before, 20.0 * 0.25, masks)
    assert loss == pytest.approx(expected, rel=1e-12)
    assert_close(net, after)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("drop", [False, True])
def test_mean_teacher_takes_the_step_of_the_formulas(
    norm: bool, drop: bool, toy: SimpleNamespace
) -> None:
    """The target is the teacher's own pass on its own view; the student's own pass is trained."""
    net, batch = toy.make_net(norm=norm, drop=drop), make_batch(toy)
    method = mean_teacher(toy.make_net(norm=norm, drop=drop, seed=9), weight=8.0)
    teacher = method.evaluated(net)
    old = {name: p.clone() for name, p in teacher.named_parameters()}
    masks = tuple(toy.masks(net, (B + U, B + U)))
    teacher.eval()  # as an evaluation leaves it that does not care
    before, loss = take_step(method, net, batch)
    after, expected = expected_step(toy, net, batch, before, old, 8.0, masks)
    assert loss == pytest.approx(expected, rel=1e-12)
    assert_close(net, after)
    assert_close(teacher, {name: DECAY * old[name] + (1 - DECAY) * after[name] for name in after})


@pytest.mark.parametrize("kind", ["pi-model", "mean-teacher"])
def test_statistics_move_and_a_graph_is_kept_by_the_clean_pass_alone(
    kind: str, toy: SimpleNamespace
) -> None:
    net, batch = toy.make_net(norm=True), make_batch(toy)
    method = PiModel(config("pi-model")) if kind == "pi-model" else mean_teacher(net)
    mean, variance = net.norm.running_mean.clone(), net.norm.running_var.clone()
    x = torch.cat([batch.labelled[0], batch.views[0]])
    graphs: list[bool] = []
    for network in {net, method.evaluated(net)}:
        network.register_forward_hook(lambda module, x, out: graphs.append(out.requires_grad))
    h = (x @ net.inp.weight.T + net.inp.bias).detach()
    take_step(method, net, batch)
    assert graphs == [True, False]
    torch.testing.assert_close(net.norm.running_mean, 0.9 * mean + 0.1 * h.mean(0))
    torch.testing.assert_close(net.norm.running_var, 0.9 * variance + 0.1 * h.var(0))
    assert int(net.norm.num_batches_tracked) == 1
    evaluated = method.evaluated(net)
    assert toy.identical(dict(evaluated.named_buffers()), dict(net.named_buffers()))
