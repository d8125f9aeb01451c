from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.mixing.batch import mix_labels, soft_cross_entropy
from core.mixing.losses import IndexLoss, mixed_loss, unmixed_loss
from tests.support.losses import brier, focal


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="none")


def test_a_focal_loss_by_hand() -> None:
    # softmax rows (1/4, 3/4) and (1/2, 1/2)
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]], dtype=torch.float64)
    y, loss = torch.tensor([1, 0]), IndexLoss(focal)
    quarter, half = -(0.75**2) * math.log(0.25), -0.25 * math.log(0.5)
    three_quarters = -(0.25**2) * math.log(0.75)
    assert float(loss(logits, y)) == pytest.approx((three_quarters + half) / 2, rel=1e-14)
    lam, partner = torch.tensor([0.9, 0.6], dtype=torch.float64), torch.tensor([1, 0])
    mixed = (0.9 * three_quarters + 0.1 * quarter + half) / 2
    assert float(loss.mixed(logits, y, lam, partner)) == pytest.approx(mixed, rel=1e-14)
    assert float(mixed_loss(loss, logits, y, lam, partner)) == pytest.approx(mixed, rel=1e-14)


def test_for_cross_entropy_both_roads_meet() -> None:
    logits = 4 * torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    y, partner = torch.randint(5, (6,)), torch.randperm(6)
    lam = torch.rand(6, dtype=torch.float64, requires_grad=True)
    index = mixed_loss(IndexLoss(cross_entropy), logits, y, lam, partner)
    soft = mixed_loss(soft_cross_entropy, logits, y, lam, partner)
    torch.testing.assert_close(index, soft, rtol=1e-13, atol=0)
    roads = [torch.autograd.grad(value, (logits, lam)) for value in (index, soft)]
    torch.testing.assert_close(*roads, rtol=1e-12, atol=1e-15)
    plain = IndexLoss(cross_entropy)(logits, y)
    torch.testing.assert_close(plain, F.cross_entropy(logits, y), rtol=1e-14, atol=0)


def test_any_other_loss_takes_the_mixed_label() -> None:
    logits, y, partner = torch.randn(4, 3), torch.tensor([0, 2, 1, 1]), torch.tensor([1, 2, 3, 0])
    lam = torch.rand(4)
    seen: list[Tensor] = []

    def watched(logits: Tensor, target: Tensor) -> Tensor:
        seen.append(target)
        return brier(logits, target)

    value = mixed_loss(watched, logits, y, lam, partner)
    assert torch.equal(seen[0], mix_labels(y, lam, partner, 3))
    assert torch.equal(value, brier(logits, seen[0]))
    soft = torch.softmax(torch.randn(4, 3), 1)
    mixed_loss(watched, logits, soft, lam, partner)
    assert torch.equal(seen[-1], mix_labels(soft, lam, partner, 3))


def test_the_mix_is_differentiable_in_lam_and_twice_in_the_logits() -> None:
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    lam = torch.rand(3, dtype=torch.float64, requires_grad=True)
    y, partner, loss = torch.tensor([3, 0, 1]), torch.tensor([2, 0, 0]), IndexLoss(focal)
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda f, lam: loss.mixed(f, y, lam, partner), (logits, lam))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_labels_of_any_integer_type_reach_the_loss_as_int64(dtype: torch.dtype) -> None:
    logits, y, partner = torch.randn(3, 4), torch.tensor([3, 0, 1]), torch.tensor([1, 2, 0])
    loss, lam = IndexLoss(focal), torch.rand(3)
    assert torch.equal(loss(logits, y.to(dtype)), loss(logits, y))
    assert torch.equal(
        loss.mixed(logits, y.to(dtype), lam, partner), loss.mixed(logits, y, lam, partner)
    )


def test_refusals() -> None:
    logits, loss, lam, partner = torch.randn(3, 4), IndexLoss(focal), torch.rand(3), torch.arange(3)
    soft = torch.softmax(torch.randn(3, 4), 1)
    for target in (soft, torch.zeros(3), torch.zeros(3, 1).long(), torch.zeros(2).long()):
        message = r"takes integer labels \[3\], got torch\..*soft_cross_entropy"
        with pytest.raises(ValueError, match=message):
            loss(logits, target)
    with pytest.raises(ValueError, match=r"takes integer labels \[3\], got torch.float32 \[3, 4\]"):
        mixed_loss(loss, logits, soft, lam, partner)
    reduced = IndexLoss(F.cross_entropy)
    with pytest.raises(ValueError, match=r"one loss for each sample, \[3\], got \[\].*reduction"):
        reduced(logits, torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("outside", [-1, 3])
def test_a_label_outside_of_the_classes_is_named_where_classes_have_weights(outside: int) -> None:
    loss = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    logits, y = torch.zeros(2, 3), torch.tensor([1, outside])
    ends = rf"run from {min(1, outside)} to {max(1, outside)}, and there are 3 logits.*{outside}"
    with pytest.raises(ValueError, match=ends):
        mixed_loss(loss, logits, y, torch.ones(2), torch.tensor([1, 0]))
    with pytest.raises(ValueError, match=ends):
        unmixed_loss(loss, logits, y)


def test_a_batch_without_the_label_to_ignore_is_as_good_as_any() -> None:
    """Torch takes no `ignore_index` from 0 up for soft labels, and a batch may have none of it."""
    logits, y = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 2, 2, 0])
    lam, partner = torch.rand(4, dtype=torch.float64), torch.tensor([1, 2, 3, 0])
    ends = [cross_entropy(logits, labels) for labels in (y, y[partner])]
    loss = torch.nn.CrossEntropyLoss(ignore_index=1)
    got = mixed_loss(loss, logits, y, lam, partner)
    torch.testing.assert_close(got, (lam * ends[0] + (1 - lam) * ends[1]).mean())


@pytest.mark.parametrize(
    "kind", [nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss], ids=lambda kind: kind.__name__
)
def test_weighted_losses_of_torch_are_those_of_plain_training(kind: Any) -> None:
    """Two divide by the sum of the weights, one by n."""
    weight = torch.tensor([1.0, 2.0, 3.0, 10.0], dtype=torch.float64)
    logits = torch.randn(8, 4, dtype=torch.float64).log_softmax(1).requires_grad_()
    y = torch.arange(8) % 4
    expected = kind(weight=weight)(logits, y)
    loss = IndexLoss(kind(weight=weight, reduction="none"))
    ones, partner = torch.ones(8, dtype=torch.float64), torch.randperm(8)
    for value in (loss(logits, y), loss.mixed(logits, y, ones, partner)):
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(slope(value, logits), slope(expected, logits))


def slope(value: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(value, at, retain_graph=True)[0]


@pytest.mark.parametrize("weight", [torch.ones(3, 1), torch.ones(2), 0.5], ids=range(3))
def test_weights_of_classes_have_one_number_for_each(weight: Any) -> None:
    loss = IndexLoss(cross_entropy, weight=weight)
    with pytest.raises(ValueError, match=r"weight of a loss must be a tensor \[3\]"):
        loss(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
