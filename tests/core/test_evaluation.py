from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.data import DeviceImages, Transform
from core.evaluation import BATCH, evaluate, predict

N = 2 * BATCH + 3
TRANSFORM = Transform(mean=(0.25,), std=(0.5,), flip=True, translate=1)


class Scores(nn.Module):
    """Logits linear in the pixels, behind a dropout and a BatchNorm that evaluation must not use in
    training mode."""

    def __init__(self, classes: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.drop = nn.Dropout(0.9)
        self.linear = nn.Linear(16, classes)
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        out: Tensor = self.linear(self.drop(self.norm(x)).flatten(1))
        return out


def case(classes: int) -> tuple[Scores, DeviceImages, np.ndarray, np.ndarray]:
    """Model, images, and by NumPy in float64: logits [N, classes] and labels [N]."""
    rng = np.random.default_rng(classes)
    pixels = rng.integers(0, 256, (N, 1, 4, 4), dtype=np.uint8)
    labels = rng.integers(0, classes, N)
    model = Scores(classes)
    model.norm.running_mean = torch.tensor([0.5])
    model.norm.running_var = torch.tensor([4.0])
    weight = model.linear.weight.detach().double().numpy()
    x = ((pixels / 255 - 0.25) / 0.5 - 0.5) / np.sqrt(4.0 + 1e-5)
    logits = x.reshape(N, 16) @ weight.T + model.linear.bias.detach().double().numpy()
    return model, DeviceImages(pixels, labels), logits, labels


@pytest.mark.parametrize("classes", [2, 10, 99, 100, 130])
def test_loss_and_errors_by_hand(classes: int) -> None:
    model, images, logits, labels = case(classes)
    result = evaluate(model, images, TRANSFORM)
    right = logits[np.arange(N), labels]
    assert result.loss == pytest.approx(np.mean(np.log(np.exp(logits).sum(1)) - right), rel=1e-5)
    rank = (logits > right[:, None]).sum(1)
    assert result.error == pytest.approx(100 * np.mean(rank >= 1))
    if classes < 100:
        assert result.top5_error is None
    else:
        assert result.top5_error is not None
        assert result.top5_error == pytest.approx(100 * np.mean(rank >= 5))
        assert 0 < result.top5_error < result.error
    assert model.batches == [BATCH, BATCH, 3]


@pytest.mark.parametrize("classes", [2, 130])
def test_probabilities_by_hand(classes: int) -> None:
    model, images, logits, _ = case(classes)
    probabilities = predict(model, images, TRANSFORM)
    assert probabilities.dtype == torch.float64
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities.numpy(), expected, rtol=1e-5)
    assert model.batches == [BATCH, BATCH, 3]


def test_after_an_error_modes_are_as_before() -> None:
    model, images, _, _ = case(10)
    model.train()
    model.norm.eval()
    model.drop.register_forward_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, images, TRANSFORM)
    assert (model.training, model.norm.training, model.drop.training) == (True, False, True)


def test_nothing_is_left_behind() -> None:
    model, images, _, _ = case(10)
    model.train()
    model.norm.eval()  # frozen statistics inside a model in training
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stream = torch.get_rng_state()
    first = evaluate(model, images, TRANSFORM)
    assert (model.training, model.norm.training, model.drop.training) == (True, False, True)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), stream)
    assert len(predict(model, images, TRANSFORM)) == N
    assert (model.training, model.norm.training, model.drop.training) == (True, False, True)
    assert torch.equal(torch.get_rng_state(), stream)
    model.eval()
    assert evaluate(model, images, TRANSFORM) == first
    assert not model.training


def test_what_a_model_makes_in_evaluation_serves_training() -> None:
    class Table(nn.Linear):
        table: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.table is None:
                self.table = torch.linspace(0, 1, 16)
            return super().forward(x.flatten(1) * self.table)

    model = Table(16, 3)
    images = DeviceImages(np.zeros((6, 1, 4, 4), np.uint8), np.arange(6) % 3)
    evaluate(model, images, TRANSFORM)
    model(torch.ones(2, 1, 4, 4)).sum().backward()
    assert model.weight.grad is not None
