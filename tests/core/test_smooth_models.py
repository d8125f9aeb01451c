"""Smooth networks: the same weights, and a gradient without jumps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.models import build_model
from core.models.smooth import smoothed


def built(name: str, size: int = 9) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, in_channels=2, num_classes=3, image_size=size, width=4).double().eval()


@pytest.mark.parametrize("name", ["cnn", "digits_cnn"])
def test_the_weights_are_those_of_the_model_it_is_made_of(name: str) -> None:
    plain, smooth = built(name).state_dict(), built(f"{name}_smooth").state_dict()
    assert list(plain) == list(smooth)
    assert all(torch.equal(plain[key], smooth[key]) for key in plain)


def test_digits_cnn_smooth_by_hand() -> None:
    model = built("digits_cnn_smooth")
    w = list(model.parameters())
    x = torch.randn(3, 2, 9, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    h = F.gelu(F.conv2d(x, w[0], w[1], padding=1))
    h = F.avg_pool2d(F.gelu(F.conv2d(h, w[2], w[3], padding=1)), 2)
    h = F.gelu(h.reshape(3, -1) @ w[4].T + w[5])
    torch.testing.assert_close(model(x), h @ w[6].T + w[7])


@pytest.mark.parametrize("name", ["cnn", "digits_cnn"])
@pytest.mark.parametrize("smooth", [True, False])
def test_along_a_line_the_gradient_jumps_unless_smooth(name: str, smooth: bool) -> None:
    """Its largest change from step to step shrinks with the step, or does not."""
    model = built(name + ("_smooth" if smooth else ""))
    torch.manual_seed(1)
    nn.init.normal_(model.get_submodule("classifier").weight)  # type: ignore[arg-type]
    ends = torch.randn(2, 2, 9, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def largest_change(steps: int) -> float:
        t = torch.linspace(0, 1, steps + 1, dtype=torch.float64).view(-1, 1, 1, 1)
        x = (ends[0] + t * (ends[1] - ends[0])).requires_grad_()
        (gradient,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
        change: Tensor = (gradient[1:] - gradient[:-1]).flatten(1).norm(dim=1)
        return float(change.max())

    shrinks = largest_change(400) / largest_change(3200)
    assert shrinks > 6 if smooth else shrinks < 3


def test_layers_inside_layers_are_swapped_and_windows_kept() -> None:
    inner = nn.Sequential(nn.MaxPool2d(3, stride=2, ceil_mode=True), nn.ReLU(inplace=True))
    model = smoothed(nn.Sequential(nn.Sequential(inner), nn.Sigmoid()))
    pool, activation = inner
    assert isinstance(pool, nn.AvgPool2d)
    assert (pool.kernel_size, pool.stride, pool.ceil_mode) == (3, 2, True)
    assert isinstance(activation, nn.GELU)
    assert isinstance(model[1], nn.Sigmoid)


def test_what_cannot_be_swapped_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Linear has no nn.ReLU and no nn.MaxPool2d"):
        smoothed(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="no smooth counterpart of MaxPool2d"):
        smoothed(nn.Sequential(nn.MaxPool2d(3, padding=1)))
