"""The truth is a softmax of a linear map; its divergence has the Hessian Wᵀ(diag p − ppᵀ)W."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import core
from core.models import build_model
from core.semi_supervised.config import SemiSupervisedConfig
from core.semi_supervised.method import SemiBatch
from core.semi_supervised.vat import (
    VAT,
    kl_divergence,
    mean_entropy,
    virtual_adversarial_direction,
)

B, U, FEATURES, CLASSES = 3, 4, 6, 5


def linear(seed: int = 0) -> tuple[nn.Linear, Tensor]:
    g = torch.Generator().manual_seed(seed)
    model = nn.Linear(FEATURES, CLASSES).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64))
    return model, torch.randn(U, FEATURES, generator=g, dtype=torch.float64)


def hessians(model: nn.Linear, x: Tensor) -> Tensor:
    """[U, FEATURES, FEATURES]: of KL(p(x) ‖ p(x + r)) in r at r = 0."""
    z = x @ model.weight.T.detach() + model.bias.detach()
    p = torch.exp(z) / torch.exp(z).sum(1, keepdim=True)
    fisher = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    w = model.weight.detach()
    return w.T @ fisher @ w


def divergence_of(model: nn.Module, x: Tensor):  # type: ignore[no-untyped-def]
    clean = model(x).detach()
    return lambda r: kl_divergence(clean, model(x + r)).sum()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.double().flatten(1), b.double().flatten(1)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def unit(d: Tensor) -> Tensor:
    return d / d.norm(dim=1, keepdim=True)


def starts(*shape: int, seed: int = 3) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape or (U, FEATURES), generator=g, dtype=torch.float64)


@pytest.mark.parametrize("xi", [0.0, 1e-5])
def test_the_direction_is_the_top_eigenvector(xi: float) -> None:
    model, x = linear()
    actual = virtual_adversarial_direction(
        divergence_of(model, x), starts(), xi=xi, power_iterations=100
    )
    values, vectors = torch.linalg.eigh(hessians(model, x))
    assert bool(
        (values[:, -2] / values[:, -1] < 0.95).all()
    )  # else 100 iterations do not part them
    assert bool((cosine(actual, vectors[:, :, -1]).abs() > 0.999).all())
    torch.testing.assert_close(actual.norm(dim=1), torch.ones(U, dtype=torch.float64))


def test_in_float32_the_limit_is_exact_and_the_published_probe_is_noise() -> None:
    """Why xi is 0 by default. A probe of norm 1e-6 is below the last digit of most pixels."""
    torch.manual_seed(0)
    model = build_model("digits_cnn", in_channels=1, num_classes=10, image_size=16)
    x = torch.randn(8, 1, 16, 16)
    nn.init.normal_(model.classifier.weight, std=0.3)
    start = starts(*x.shape)
    actual = {
        xi: virtual_adversarial_direction(divergence_of(model, x), start.float(), xi=xi)
        for xi in (0.0, 1e-6)
    }
    expected = virtual_adversarial_direction(
        divergence_of(model.double(), x.double()), start, xi=1e-6
    )
    assert cosine(actual[0.0], expected).min() > 0.99999
    assert cosine(actual[1e-6], expected).mean() < 0.7


def test_a_flat_sample_gets_no_perturbation_and_an_almost_flat_one_a_whole_one() -> None:
    model, x = linear()
    with torch.no_grad():
        model.weight.mul_(1e-4 / model.weight.norm())
        model.bias.copy_(torch.tensor([80.0, 0.0, 0.0, 0.0, 0.0]))
    model = model.float()
    actual = virtual_adversarial_direction(divergence_of(model, x.float()), starts().float())
    torch.testing.assert_close(actual.norm(dim=1), torch.ones(U))  # curvature 1e-43
    nn.init.zeros_(model.weight)
    actual = virtual_adversarial_direction(divergence_of(model, x.float()), starts().float())
    assert torch.equal(actual, torch.zeros(U, FEATURES))
    assert mean_entropy(torch.tensor([[500.0, 0.0]])).item() == 0


def vat(**settings: Any) -> VAT:
    return VAT(SemiSupervisedConfig("vat", labelled=B, **settings))


def make_batch(x: Tensor, unlabelled: Tensor, progress: float = 0.0) -> SemiBatch:
    y = torch.arange(len(x)) % 3
    return SemiBatch((x, y), (unlabelled,), torch.arange(B + U), None, 0, progress)


class Attends(nn.Module):
    """Its logits attend to each other, by torch's own kernel or by hand."""

    def __init__(self, by_hand: bool):
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.by_hand = nn.Linear(FEATURES, 3), by_hand

    def forward(self, x: Tensor) -> Tensor:
        rows = self.layer(x)
        if self.by_hand:
            weights = torch.softmax(rows @ rows.T / 3**0.5, dim=1)
            return weights @ rows
        attended = nn.functional.scaled_dot_product_attention(*[rows[None, None]] * 3)
        return attended[0, 0]


def test_attention_is_differentiated_twice() -> None:
    """torch's kernel for it on the CPU has one derivative."""
    after = []
    for by_hand in (True, False):
        model, unlabelled = Attends(by_hand), starts().float()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        batch = make_batch(starts(B, FEATURES, seed=8).float(), unlabelled, progress=0.5)
        method = vat(weight=3.0, epsilon=1.5)
        method.step(model, optimizer, batch, generator=torch.Generator().manual_seed(11))
        after.append(model.layer.weight.detach())
    torch.testing.assert_close(*after)


class Kernels(nn.Linear):
    """It notes which kernels of attention may run, and whether the compiler is to."""

    def forward(self, x: Tensor) -> Tensor:
        cuda = torch.backends.cuda
        self.seen.append((cuda.math_sdp_enabled(), cuda.flash_sdp_enabled(), _stance()))
        return super().forward(x)


def _stance() -> str:
    import torch._dynamo.eval_frame as dynamo

    return str(dynamo._stance.stance)


@pytest.mark.parametrize("xi", [0.0, 1e-3])
def test_all_passes_run_by_the_same_kernels(xi: float) -> None:
    """Another kernel draws other masks from the same stream."""
    model, optimizer_of = Kernels(FEATURES, CLASSES), torch.optim.SGD
    model.seen = []
    batch = make_batch(starts(B, FEATURES).float(), starts().float(), progress=0.5)
    optimizer = optimizer_of(model.parameters(), lr=0.1)
    vat(weight=1.0, epsilon=1.0, xi=xi).step(model, optimizer, batch, generator=torch.Generator())
    assert len(model.seen) == 3
    assert len({*model.seen}) == 1


def test_a_network_whose_logits_are_a_part_of_what_it_returns() -> None:
    class Parts(nn.Linear):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": super().forward(x)}

    after = []
    for kind in (nn.Linear, Parts):
        torch.manual_seed(0)
        model = kind(FEATURES, CLASSES)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batch = make_batch(starts(B, FEATURES).float(), starts().float(), progress=0.5)
        network = model if kind is nn.Linear else core.with_logits(model, "logits")
        vat(weight=1.0, epsilon=1.0).step(
            network, optimizer, batch, generator=torch.Generator().manual_seed(2)
        )
        after.append(model.weight.detach())
    assert torch.equal(*after)


@pytest.mark.parametrize("entropy", [0.0, 0.1])
def test_a_step_is_that_of_the_formulas(entropy: float) -> None:
    model, unlabelled = linear(4)
    x = starts(B, FEATURES, seed=8)
    batch = make_batch(x, unlabelled, progress=0.2)
    method = vat(weight=0.3, ramp="linear", ramp_share=0.4, epsilon=1.5, entropy=entropy)
    w, b = (p.detach().clone().requires_grad_() for p in model.parameters())
    d = starts(seed=11)
    r = 1.5 * unit((hessians(model, unlabelled) @ d.unsqueeze(2)).squeeze(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    step = method.step(model, optimizer, batch, generator=torch.Generator().manual_seed(11))

    def log_p(z: Tensor) -> Tensor:
        return z - torch.logsumexp(z, 1, keepdim=True)

    clean = log_p(unlabelled @ w.T + b)
    target = clean.detach()
    away = log_p((unlabelled + r) @ w.T + b)
    loss = -log_p(x @ w.T + b)[torch.arange(B), batch.labelled[1]].sum() / B
    loss = loss + 0.3 * 0.5 * (target.exp() * (target - away)).sum() / U
    loss = loss - entropy * (clean.exp() * clean).sum() / U
    slopes = torch.autograd.grad(loss, [w, b])
    assert float(step.loss) == pytest.approx(loss.item(), rel=1e-12)
    assert not step.loss.requires_grad
    assert step.samples == 3 * (B + U)
    torch.testing.assert_close(model.weight, w - 0.5 * slopes[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model.bias, b - 0.5 * slopes[1], rtol=1e-10, atol=1e-12)


def test_all_passes_have_the_masks_and_the_mixture_of_the_clean_one(toy: SimpleNamespace) -> None:
    """With other masks or batch statistics there is a divergence, and a slope, without any r."""
    net = toy.make_net(norm=True, drop=True)
    x, unlabelled = toy.make_data(B).batch[0], toy.make_data(U, seed=2).batch[0]
    with torch.random.fork_rng(devices=[]):
        copy.deepcopy(net)(torch.cat([x, unlabelled]))
        stream = torch.get_rng_state()
    seen: list[Tensor] = []
    net.drop.register_forward_hook(lambda module, given, out: seen.append(out.detach() != 0))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    (mask,) = toy.masks(net, (B + U,))
    loss = toy.explicit_loss(
        toy.explicit_logits(net, dict(net.named_parameters()), torch.cat([x, unlabelled]), mask)[
            :B
        ],
        toy.one_hot(torch.arange(B) % 3),
    )
    method = vat(weight=1e6, epsilon=1e-9, power_iterations=2)
    step = method.step(net, optimizer, make_batch(x, unlabelled), generator=torch.Generator())
    assert step.samples == 4 * (B + U)
    assert len(seen) == 4
    assert all(torch.equal(mask, seen[0]) for mask in seen)
    assert float(step.loss) == pytest.approx(loss.item(), rel=1e-9)
    assert torch.equal(torch.get_rng_state(), stream)  # one pass's draws
