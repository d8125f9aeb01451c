"""Pooling by way of channels_last gives what PyTorch's gives for contiguous images."""

import pytest
import torch
from torch import nn

from core.models.pooling import MaxPool2d


def _derivatives(pool, images, weights):
    x = images.clone().requires_grad_()
    pooled = pool(x)
    (first,) = torch.autograd.grad((pooled.square() * weights).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    return pooled, first, second


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("window", [{}, {"ceil_mode": True}, {"stride": 1}, {"dilation": 2}])
@pytest.mark.parametrize("shape", [(3, 4, 8, 8), (2, 1, 7, 9), (2, 3, 4, 4)])
def test_values_and_two_derivatives_are_those_of_torch(shape, window, dtype):
    """Among many equal values the first counts, as in torch's; NaN stays."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 3, shape, generator=generator).to(dtype)
    images[0, 0, 0, 0] = float("nan")
    theirs = nn.MaxPool2d(2, **window)
    weights = torch.randn(theirs(images).shape, generator=generator).to(dtype)

    expected = _derivatives(theirs, images, weights)
    got = _derivatives(MaxPool2d(2, **window), images, weights)

    for mine, torchs in zip(got, expected, strict=True):
        assert mine.is_contiguous()
        torch.testing.assert_close(mine, torchs, rtol=0, atol=0, equal_nan=True)
    with torch.no_grad():
        mine = MaxPool2d(2, **window)(images)
    assert mine.is_contiguous()
    torch.testing.assert_close(mine, expected[0].detach(), rtol=0, atol=0, equal_nan=True)


def test_images_in_channels_last_and_single_ones_go_as_they_are():
    images = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)

    pooled = MaxPool2d(2)(images)

    assert pooled.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pooled[0], MaxPool2d(2)(images[0]))


def test_it_is_mapped_over_a_further_dimension():
    images = torch.randn(5, 2, 3, 4, 4)

    pooled = torch.func.vmap(MaxPool2d(2))(images)

    assert torch.equal(pooled, torch.stack([nn.MaxPool2d(2)(part) for part in images]))
