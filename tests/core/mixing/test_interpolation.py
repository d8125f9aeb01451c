"""What a policy's decision does to a batch: by formulas, and the same as in `mixed_step`."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.mixing.area import AreaMixing, mix_areas
from core.mixing.batch import soft_cross_entropy
from core.mixing.hidden import HiddenMixing
from core.mixing.interpolation import Interpolation
from core.mixing.kinds import INPUT, Mixing
from core.mixing.real_step import mixed_step

N, CLASSES = 5, 3


class Net(nn.Sequential):
    """Written out, as `Module.compile` leaves torch's own classes as they are."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self[0](x))
        logits: Tensor = self[4](self[3](self[2](self[1](h))))
        return logits


def make_model() -> Net:
    return Net(
        nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(36, CLASSES)
    ).double()


def make(mixing: Mixing = INPUT) -> SimpleNamespace:
    x = torch.randn(N, 2, 5, 5, dtype=torch.float64)
    y = torch.randint(CLASSES, (N,))
    lam = torch.rand(N, dtype=torch.float64)
    partner = torch.tensor([2, 0, 1, 4, 3])
    drawn = mixing.draw(x, torch.Generator().manual_seed(2))
    return SimpleNamespace(
        x=x, y=y, lam=lam, partner=partner, given=Interpolation(lam, partner, lam, mixing=drawn)
    )


def by_hand(model: Net, case: SimpleNamespace, mixing: Mixing) -> Tensor:
    """Logits of the mixed batch, layer by layer."""

    def mix(h: Tensor) -> Tensor:
        weight = case.lam.view(-1, *[1] * (h.dim() - 1))
        return weight * h + (1 - weight) * h[case.partner]

    if isinstance(mixing, HiddenMixing):
        return model[4](mix(torch.tanh(torch.tanh(model[0](case.x)))).flatten(1))
    if isinstance(mixing, AreaMixing):
        return model(mix_areas(case.x, case.lam, case.partner, case.given.mixing.position))
    return model(mix(case.x))


KINDS = [INPUT, AreaMixing(), HiddenMixing("1")]


@pytest.mark.parametrize("mixing", KINDS, ids=lambda kind: type(kind).__name__)
def test_logits_by_hand(mixing: Any) -> None:
    model, case = make_model().eval(), make(mixing)
    truth = by_hand(model, case, mixing)
    torch.testing.assert_close(case.given.logits(model, case.x), truth, rtol=0, atol=1e-12)
    assert float((truth - model(case.x)).detach().abs().max()) > 0.05


@pytest.mark.parametrize("wrapper", ["plain", "compiled", "in place"])
@pytest.mark.parametrize("mixing", KINDS, ids=lambda kind: type(kind).__name__)
def test_the_same_as_in_a_mixed_step(mixing: Any, wrapper: str) -> None:
    model, case = make_model(), make(mixing)
    called: Any = model
    if wrapper == "compiled":
        called = torch.compile(model, backend="eager")
    elif wrapper == "in place":
        model.compile(backend="eager")
    twin = copy.deepcopy(model)
    stream = torch.get_rng_state()
    logits = case.given.logits(called, case.x)
    loss = case.given.loss(logits, case.y)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    torch.set_rng_state(stream)
    optimizer = torch.optim.SGD(twin.parameters(), lr=1.0)
    result = mixed_step(twin, optimizer, (case.x, case.y), case.given)
    torch.testing.assert_close(result.loss, loss.detach(), rtol=1e-14, atol=0)
    for p, before, g in zip(twin.parameters(), model.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.detach(), before.detach() - g, rtol=1e-12, atol=1e-14)
    assert torch.equal(result.lam, case.given.lam)
    assert result.partner is case.given.partner


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y: (x[:3], y[:3]), "the interpolation is of 5 samples and the training batch "),
        (lambda x, y: (x, y[:3]), r"training labels must be integers \[5\]"),
        (lambda x, y: (x, y.tolist()), "training labels must be one tensor, got list"),
        (lambda x, y: (x, torch.full_like(y, 7)), r"labels must lie in \[0, 2\], got 7 at index 0"),
    ],
    ids=["another size", "fewer labels", "a list", "an unknown class"],
)
def test_a_batch_that_the_interpolation_is_not_of_is_refused_and_nothing_is_trained(
    spoil: Any, message: str
) -> None:
    model, case = make_model(), make(INPUT)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(ValueError, match=message):
        mixed_step(model, optimizer, spoil(case.x, case.y), case.given)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


LAM, PARTNER = torch.full((N,), 0.5), torch.arange(N)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lam": LAM[:, None]}, r"lam must be a floating tensor of shape \[5\]"),
        ({"lam": LAM[:1]}, r"lam must be a floating tensor of shape \[5\]"),
        ({"lam": 0.5}, r"lam must be a floating tensor of shape \[5\], got 0\.5"),
        ({"weights": LAM[:, None]}, r"weights must be a floating tensor of shape \[5\]"),
        ({"weights": PARTNER}, r"weights must be a floating tensor of shape \[5\]"),
        ({"partner": PARTNER > 0}, r"partner must be an integer tensor of shape \[B\]"),
        ({"partner": None}, r"partner must be an integer tensor of shape \[B\], got None"),
    ],
    ids=range(7),
)
def test_a_decision_of_another_shape_is_refused(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"lam": LAM, "partner": PARTNER, "lam_init": LAM, "weights": LAM}
    Interpolation(**given)
    with pytest.raises(ValueError, match=message):
        Interpolation(**given | change)


def test_what_is_no_decision_is_refused() -> None:
    model, case = make_model(), make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    nothing: Any = LAM
    with pytest.raises(ValueError, match=r"core\.Interpolation that a policy gave, got Tensor"):
        mixed_step(model, optimizer, (case.x, case.y), nothing)


def batch_entropy(logits: Tensor, target: Tensor) -> Tensor:
    mean = logits.softmax(1).mean(0)
    return soft_cross_entropy(logits, target) + (mean * mean.log()).sum()


@pytest.mark.parametrize(
    ("loss", "refused"),
    [
        (lambda logits, t: -(t * logits.log_softmax(1)).sum(), True),
        (batch_entropy, True),
        (lambda logits, t: soft_cross_entropy(logits - logits.mean(0), t), True),
        (lambda logits, t: -(t * logits.log_softmax(1)).sum(1).mean(), False),
        (torch.nn.CrossEntropyLoss(label_smoothing=0.1), False),
    ],
    ids=["a sum", "a term of the batch", "centered logits", "a mean", "smoothed"],
)
def test_weights_are_refused_to_a_loss_that_is_no_mean_over_samples(
    loss: Any, refused: bool
) -> None:
    torch.manual_seed(3)
    y = torch.arange(N) % CLASSES
    logits, ones = 3 * torch.randn(N, CLASSES), torch.ones(N)
    plain = Interpolation(lam=ones, partner=PARTNER, lam_init=ones)
    weighted = Interpolation(lam=ones, partner=PARTNER, lam_init=ones, weights=ones)
    if refused:
        with pytest.raises(ValueError, match="weights need a loss that is such a mean"):
            weighted.loss(logits, y, loss)
    else:
        torch.testing.assert_close(weighted.loss(logits, y, loss), plain.loss(logits, y, loss))
