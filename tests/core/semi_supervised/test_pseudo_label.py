from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.policies.drawn import Fixed, NoMix
from core.policies.learned import Learned
from core.policies.protocol import Policy
from core.semi_supervised.config import SemiSupervisedConfig
from core.semi_supervised.method import SemiBatch, SemiStep
from core.semi_supervised.pseudo_label import PseudoLabel, pseudo_labels, weighted_targets
from tests.support.differences import differences

B, U, C = 4, 6, 3


def make_model() -> nn.Linear:
    model = nn.Linear(5, C).double()
    r = torch.Generator().manual_seed(0)
    model.weight.data = 2 * torch.randn(C, 5, generator=r, dtype=torch.float64)
    model.bias.data.zero_()
    return model


def make_batch(epoch: int = 0, progress: float = 0.0) -> SemiBatch:
    r = torch.Generator().manual_seed(1)

    def images(n: int) -> Tensor:
        return torch.randn(n, 5, generator=r, dtype=torch.float64)

    labels = torch.randint(C, (B,), generator=r)
    val = images(7), torch.randint(C, (7,), generator=r)
    return SemiBatch((images(B), labels), (images(U),), torch.arange(B + U), val, epoch, progress)


def take_step(
    policy: Policy, batch: SemiBatch | None = None, **settings: Any
) -> tuple[SemiStep, nn.Linear]:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    settings = {"threshold": 0.8, **settings}
    method = PseudoLabel(SemiSupervisedConfig("pseudo-label", labelled=B, **settings), policy)
    generator = torch.Generator().manual_seed(3)
    return method.step(model, optimizer, batch or make_batch(), generator=generator), model


def test_confident_predictions_become_labels() -> None:
    p = torch.tensor([[0.96, 0.03, 0.01], [0.02, 0.95, 0.03], [0.3, 0.3, 0.4], [0.0, 0.0, 1.0]])
    assert pseudo_labels(p, 0.95).tolist() == [0, -1, -1, 2]
    assert pseudo_labels(p, 0.0).tolist() == [0, 1, 2, 2]


def test_the_loss_is_the_sum_of_both_means_with_those_left_out_counted_as_none() -> None:
    batch, model = make_batch(), make_model()
    (x, y), (u,) = batch.labelled, batch.views
    p = model(u).softmax(1).detach().numpy()
    logits = model(x)
    loss = -sum(logits[i].softmax(0)[int(y[i])].log() for i in range(B)) / B
    accepted = [model(row).softmax(0).max() for row in u if model(row).softmax(0).max() > 0.8]
    assert 0 < len(accepted) < U
    loss = loss - 0.5 * torch.stack(accepted).log().sum() / U
    (gradient,) = torch.autograd.grad(loss, model.weight)
    step, stepped = take_step(NoMix(), weight=0.5)
    assert float(step.loss) == pytest.approx(float(loss.detach()), rel=1e-6)
    torch.testing.assert_close(stepped.weight, model.weight - 0.5 * gradient)
    assert step.pseudo_labels is not None
    assert step.pseudo_labels.tolist() == [
        int(row.argmax()) if row.max() > 0.8 else -1 for row in p
    ]
    assert step.samples == U + B + len(accepted)


def test_the_weight_comes_up() -> None:
    _, plain = take_step(NoMix(), threshold=1.0)
    start, halfway = make_batch(), make_batch(progress=0.25)
    _, off = take_step(NoMix(), start, ramp="linear", ramp_share=0.5)
    _, half = take_step(NoMix(), halfway, ramp="linear", ramp_share=0.5)
    _, full = take_step(NoMix())
    torch.testing.assert_close(off.weight, plain.weight)
    torch.testing.assert_close(half.weight, (plain.weight + full.weight) / 2)


def test_nothing_is_accepted() -> None:
    step, model = take_step(NoMix(), threshold=1.0)
    by_hand = make_model()
    x, y = make_batch().labelled
    (gradient,) = torch.autograd.grad(F.cross_entropy(by_hand(x), y), by_hand.weight)
    assert step.pseudo_labels is not None
    assert step.pseudo_labels.tolist() == [-1] * U
    torch.testing.assert_close(model.weight, by_hand.weight - 0.5 * gradient)
    assert take_step(Learned(), threshold=1.0)[0].interpolation is not None


def test_a_mixed_step_by_hand() -> None:
    batch, model = make_batch(), make_model()
    step, stepped = take_step(Fixed(0.3), batch, threshold=0.0, weight=0.5)
    assert step.interpolation is not None
    partner = step.interpolation.partner
    (x, y), (u,) = batch.labelled, batch.views
    label = model(u).argmax(1)
    loss = torch.zeros((), dtype=torch.float64)
    for images, target, at, weight in (
        (x, y, partner[:B], 1.0),
        (u, label, partner[B:] - B, 0.5),
    ):
        logits = model(0.3 * images + 0.7 * images[at])
        labelled_loss = F.cross_entropy(logits, target)
        loss = loss + weight * (0.3 * labelled_loss + 0.7 * F.cross_entropy(logits, target[at]))
    (gradient,) = torch.autograd.grad(loss, model.weight)
    assert float(step.loss) == pytest.approx(float(loss.detach()), rel=1e-6)
    torch.testing.assert_close(stepped.weight, model.weight - 0.5 * gradient, rtol=1e-6, atol=1e-8)


def test_lam_is_learned_on_the_sum_of_both_losses() -> None:
    """Algorithm 2, lines 9 to 11, against central differences of an unroll by hand in float64."""
    batch, model = make_batch(), make_model()
    step, _ = take_step(Learned(), batch, threshold=0.0, weight=0.5)
    given = step.interpolation
    assert given is not None
    assert given.hypergradient is not None
    (x, y), (u,) = batch.labelled, batch.views
    assert batch.val is not None
    val_x, val_y = batch.val
    label = model(u).argmax(1)

    def meta_loss(lam: Tensor) -> float:
        weight = model.weight.detach().clone().requires_grad_()
        bias = model.bias.detach().clone().requires_grad_()
        loss = torch.zeros((), dtype=torch.float64)
        for part, images, target, w in (
            (slice(0, B), x, y, 1.0),
            (slice(B, B + U), u, label, 0.5),
        ):
            at = given.partner[part] - part.start
            share = lam[part, None]
            logits = F.linear(share * images + (1 - share) * images[at], weight, bias)
            one_hot = F.one_hot(target, C).double()
            mixed = share * one_hot + (1 - share) * one_hot[at]
            loss = loss - w * (mixed * logits.log_softmax(1)).sum(1).mean()
        dw, db = torch.autograd.grad(loss, (weight, bias))
        logits = F.linear(val_x, weight - 0.5 * dw, bias - 0.5 * db)
        return float(F.cross_entropy(logits, val_y).detach())

    lam0 = given.lam_init
    slopes = differences(meta_loss, lam0, 1e-5).tolist()
    assert given.hypergradient.tolist() == pytest.approx(slopes, rel=1e-5, abs=1e-8)
    assert given.meta_loss is not None
    assert float(given.meta_loss) == pytest.approx(meta_loss(lam0), rel=1e-6)


def test_labelling_neither_moves_statistics_nor_keeps_a_graph() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, C)).double()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = PseudoLabel(SemiSupervisedConfig("pseudo-label", labelled=B, threshold=0.0), NoMix())
    batch = make_batch()
    step = method.step(model, optimizer, batch, generator=torch.Generator())
    assert not step.loss.requires_grad
    assert int(model[1].num_batches_tracked) == 1
    hidden = F.linear(
        torch.cat([batch.labelled[0], batch.views[0]]), before["0.weight"], before["0.bias"]
    )
    torch.testing.assert_close(model[1].running_mean, 0.1 * hidden.mean(0))


def test_sizes_of_targets_are_as_exact_as_their_dtype() -> None:
    targets = weighted_targets(
        torch.arange(3), torch.arange(4) % 3, num_classes=3, unlabelled=9, weight=0.1,
        dtype=torch.float64,
    )  # fmt: skip
    assert targets.sum(1).tolist() == [7 / 3] * 3 + [0.1 * 7 / 9] * 4
