from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import core
from core.models import build_model
from core.policies import LearnedConfig, NoMix
from core.training import training
from core.training.config import TrainingConfig
from core.training.fit import fit
from core.training.optimizers import build_optimizer, learning_rate
from tests.support.digit_trainings import digits

CONFIG = TrainingConfig(
    "digits", "digits_cnn", NoMix(), train_size=34, meta_size=20, epochs=3,
    batch_size=16, meta_batch_size=8, lr=0.01, weight_decay=0.1,
)  # fmt: skip
OPTIMIZERS = ("sgd", "adam", "adamw")


class Layers(nn.Module):
    """One of each kind of parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.linear = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.norm(self.convolution(x)).mean((2, 3)))
        return out


def three_steps(optimizer: str, gradient: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
    """Where the parameters stand before and after each step on given gradients."""
    torch.manual_seed(0)
    model = Layers().double()
    built = build_optimizer(replace(CONFIG, optimizer=optimizer), model)  # type: ignore[arg-type]
    paths = {name: [p.detach().clone()] for name, p in model.named_parameters()}
    for step in range(3):
        for name, p in model.named_parameters():
            p.grad = gradient[name][step].clone()
        built.step()
        for name, p in model.named_parameters():
            paths[name].append(p.detach().clone())
    return paths


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_three_steps_by_hand(optimizer: str) -> None:
    g = torch.Generator().manual_seed(1)
    gradient = {
        name: [torch.randn(p.shape, generator=g, dtype=torch.float64) for _ in range(3)]
        for name, p in Layers().named_parameters()
    }
    paths = three_steps(optimizer, gradient)
    assert set(paths) == {
        "convolution.weight", "convolution.bias", "norm.weight", "norm.bias", "linear.weight",
        "linear.bias",
    }  # fmt: skip
    for name, path in paths.items():
        theta, first, second = path[0], torch.zeros_like(path[0]), torch.zeros_like(path[0])
        for step, raw in enumerate(gradient[name], start=1):
            if optimizer == "sgd":
                first = 0.9 * first + raw + 0.1 * theta
                theta = theta - 0.01 * first
            else:
                if optimizer == "adam":
                    raw = raw + 0.1 * theta
                elif name in ("convolution.weight", "linear.weight"):
                    theta = (1 - 0.01 * 0.1) * theta
                first = 0.9 * first + 0.1 * raw
                second = 0.999 * second + 0.001 * raw**2
                root = (second / (1 - 0.999**step)) ** 0.5
                theta = theta - 0.01 * first / (1 - 0.9**step) / (root + 1e-8)
            torch.testing.assert_close(path[step], theta, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("model", ["digits_cnn", "cnn", "preact_resnet18", "wrn_28_2"])
def test_adamw_holds_each_parameter_once_and_decays_what_is_not_a_vector(model: str) -> None:
    net = build_model(model, in_channels=1, num_classes=10, image_size=8, width=4)
    optimizer = build_optimizer(replace(CONFIG, optimizer="adamw"), net)
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert len(decay) == sum(len(group["params"]) for group in optimizer.param_groups)
    assert len(decay) == len(list(net.parameters()))
    for p in net.parameters():
        assert decay[id(p)] == (0.1 if p.ndim > 1 else 0)


def test_adamw_decays_the_kernels_of_ones_own_network_however_they_are_kept() -> None:
    net = nn.ModuleDict(
        {
            "signal": nn.Conv1d(4, 8, 3),
            "normed": nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)),
            "attention": nn.MultiheadAttention(8, 2),
            "table": nn.Embedding(5, 8),
            "norm": nn.LayerNorm(8),
        }
    )
    optimizer = build_optimizer(replace(CONFIG, optimizer="adamw"), net)
    decayed, spared = ({id(p) for p in group["params"]} for group in optimizer.param_groups)
    names = {name for name, p in net.named_parameters() if id(p) in decayed}
    assert names == {
        "signal.weight",
        "normed.parametrizations.weight.original0",
        "normed.parametrizations.weight.original1",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    }
    assert len(decayed) + len(spared) == len(list(net.parameters()))


def test_momentum_of_sgd() -> None:
    optimizer = build_optimizer(replace(CONFIG, momentum=0.5), Layers())
    assert isinstance(optimizer, torch.optim.SGD)
    (group,) = optimizer.param_groups
    assert (group["momentum"], group["lr"], group["weight_decay"]) == (0.5, 0.01, 0.1)


def test_lam_is_learned_through_plain_descent_whatever_the_optimizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before the first step all networks are the same, and so is λ where the inner step is."""
    steps: list[Tensor] = []
    real = training.mixed_step

    def spy(model: Any, optimizer: Any, batch: Any, interpolation: Any, **options: Any) -> Any:
        steps.append(interpolation.lam.clone())
        return real(model, optimizer, batch, interpolation, **options)

    monkeypatch.setattr(training, "mixed_step", spy)

    def first_lam(optimizer: Any, inner_step: Any) -> Tensor:
        policy = LearnedConfig(reading=replace(core.DEFAULT, inner_step=inner_step))
        steps.clear()
        fit(replace(CONFIG, optimizer=optimizer, policy=policy, epochs=1), source=digits())
        return steps[0]

    expected = first_lam("sgd", "gradient_descent")
    assert torch.equal(first_lam("adam", "gradient_descent"), expected)
    assert torch.equal(first_lam("adamw", "gradient_descent"), expected)
    assert not torch.allclose(first_lam("adam", "optimizer"), expected)


def test_the_rate_rises_over_the_warm_up_and_is_that_of_the_schedule_then() -> None:
    config = TrainingConfig(
        "digits", "cnn", NoMix(), epochs=10, lr=0.4, schedule="constant", warmup_epochs=2
    )
    rates = [learning_rate(config, step, 20) for step in range(20)]
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert set(rates[4:]) == {0.4}
    cosine = replace(config, schedule="cosine")
    plain = replace(cosine, warmup_epochs=0)
    assert learning_rate(cosine, 1, 20) == pytest.approx(learning_rate(plain, 1, 20) / 2)
    assert learning_rate(cosine, 11, 20) == learning_rate(plain, 11, 20)
