"""Batches and decisions of a wrong shape, dtype or range are refused by name before a step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import core
from core.mixing.losses import IndexLoss
from core.mixing.remedies import (
    EarlyLearning,
    GeneralizedCrossEntropy,
    LabelLoss,
    LogitAdjusted,
    PredictionAverages,
    Smoothed,
    class_weights,
    log_prior,
)

N, C = 4, 3
Y = torch.tensor([0, 1, 2, 0])
REMEDIES = [
    LabelLoss(),
    LogitAdjusted(log_prior(Y, C)),
    Smoothed(),
    GeneralizedCrossEntropy(),
    EarlyLearning(torch.zeros(N, C)),
]


def name_of(loss: Any) -> str:
    return str(getattr(loss, "__name__", type(loss).__name__))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.uint16])
def test_labels_of_a_small_type_may_be_of_more_classes_than_it_holds(dtype: torch.dtype) -> None:
    y = torch.tensor([0, 120, 7])
    assert torch.equal(
        core.mix_labels(y.to(dtype), torch.ones(3), torch.arange(3), 1000),
        core.mix_labels(y, torch.ones(3), torch.arange(3), 1000),
    )


@pytest.mark.parametrize(
    "loss",
    [core.soft_cross_entropy, *REMEDIES],
    ids=lambda loss: getattr(loss, "__name__", type(loss).__name__),
)
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.zeros(N, 1), r"soft labels must have shape \[.*3\]"),
        (torch.zeros(N, C + 1), r"soft labels must have shape \[.*3\]"),
    ],
    ids=["one column", "another number of classes"],
)
def test_soft_labels_are_not_stretched(loss: Any, target: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loss(torch.randn(N, C), target)


@pytest.mark.parametrize("loss", REMEDIES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("label", [C, -100])
def test_a_validation_label_beyond_the_classes_is_refused_beside_a_remedy(
    loss: Any, label: int
) -> None:
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\]"):
        loss(torch.randn(N, C), torch.tensor([0, 1, label, 2]))


LAM, PARTNER = torch.full((N,), 0.5), torch.tensor([1, 0, 3, 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lam": LAM[:, None]}, r"lam must be floating \[4\]"),
        ({"lam": LAM[:1]}, r"lam must be floating \[4\]"),
        ({"weights": LAM[:, None]}, r"weights must be floating \[4\]"),
        ({"weights": PARTNER}, r"weights must be floating \[4\]"),
        ({"partner": torch.ones(N, dtype=torch.bool)}, "partner must be int64"),
    ],
    ids=["lam a column", "lam of one", "weights a column", "weights integer", "partner a mask"],
)
def test_a_decision_of_another_shape_is_refused(change: dict[str, Tensor], message: str) -> None:
    given = {"lam": LAM, "partner": PARTNER, "lam_init": LAM}
    core.Interpolation(**given, weights=LAM)
    with pytest.raises(ValueError, match=message):
        core.Interpolation(**given | change)  # type: ignore[arg-type]


def test_what_is_no_decision_is_refused() -> None:
    model = torch.nn.Linear(2, C)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    nothing: Any = LAM
    with pytest.raises(ValueError, match=r"core\.Interpolation that a policy gave, got Tensor"):
        core.mixed_step(model, optimizer, (torch.randn(N, 2), Y), nothing)


@pytest.mark.parametrize(
    "weight",
    [torch.ones(C, 1), torch.ones(C - 1), 0.5],
    ids=lambda loss: getattr(loss, "__name__", type(loss).__name__),
)
def test_weights_of_classes_have_one_number_for_each(weight: Any) -> None:
    loss = IndexLoss(torch.nn.CrossEntropyLoss(reduction="none"), weight=weight)
    with pytest.raises(ValueError, match=r"weight of a loss must be a tensor \[3\]"):
        loss(torch.randn(N, C), Y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogitAdjusted(log_prior(Y, C), tau=-1.0), "tau must be finite and at least 0"),
        (lambda: LogitAdjusted(log_prior(Y, C), tau=math.nan), "tau must be finite"),
        (lambda: Smoothed(epsilon=1.5), r"epsilon must be in \[0, 1\]"),
        (lambda: GeneralizedCrossEntropy(q=0.0), r"q must be in \(0, 1\]"),
        (lambda: GeneralizedCrossEntropy(q=2.0), r"q must be in \(0, 1\]"),
        (lambda: EarlyLearning(torch.zeros(N, C), strength=-1.0), "strength must be finite"),
        (lambda: PredictionAverages(N, C, momentum=2.0), r"momentum must be in \[0, 1\)"),
        (lambda: class_weights(Y, C, "foo"), "kind must be one of none, inverse, effective"),  # type: ignore[arg-type]
        (lambda: core.ValidationGradient(math.nan), "refresh_every must be a whole number"),  # type: ignore[arg-type]
        (lambda: core.PersistentScores(every=2.5), "every must be a whole number"),  # type: ignore[arg-type]
    ],
    ids=range(10),
)
def test_a_setting_out_of_range_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def batch_entropy(logits: Tensor, target: Tensor) -> Tensor:
    mean = logits.softmax(1).mean(0)
    return core.soft_cross_entropy(logits, target) + (mean * mean.log()).sum()


@pytest.mark.parametrize(
    ("loss", "refused"),
    [
        (lambda logits, t: -(t * logits.log_softmax(1)).sum(), True),
        (batch_entropy, True),
        (lambda logits, t: core.soft_cross_entropy(logits - logits.mean(0), t), True),
        (lambda logits, t: -(t * logits.log_softmax(1)).sum(1).mean(), False),
        (torch.nn.CrossEntropyLoss(label_smoothing=0.1), False),
    ],
    ids=["a sum", "a term of the batch", "centered logits", "a mean", "smoothed"],
)
def test_weights_are_refused_to_a_loss_that_is_no_mean_over_samples(
    loss: Any, refused: bool
) -> None:
    torch.manual_seed(3)
    logits, ones = 3 * torch.randn(N, C), torch.ones(N)
    plain = core.Interpolation(lam=ones, partner=PARTNER, lam_init=ones)
    weighted = core.Interpolation(lam=ones, partner=PARTNER, lam_init=ones, weights=ones)
    if refused:
        with pytest.raises(ValueError, match="weights need a loss that is such a mean"):
            weighted.loss(logits, Y, loss)
    else:
        torch.testing.assert_close(weighted.loss(logits, Y, loss), plain.loss(logits, Y, loss))
