from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor, nn

from core.mixing.area import AreaMixing, area_mask, mix_areas

SIZES = [(7,), (6, 6), (5, 9), (1, 4), (1, 1), (3, 4, 5)]


def boxes(n: int, d: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(n, d, dtype=dtype)


@pytest.mark.parametrize(
    ("lam", "position", "rows", "columns"),
    [
        (0.75, (0.0, 0.0), range(2), range(3)),
        (0.75, (1.0, 1.0), range(2, 4), range(3, 6)),
        (0.75, (0.5, 1 / 3), range(1, 3), range(1, 4)),
        (0.0, (0.3, 0.8), range(4), range(6)),
        (1.0, (0.3, 0.8), range(0), range(0)),
    ],
)
def test_a_box_of_whole_pixels_is_cut_out(
    lam: float, position: tuple[float, float], rows: range, columns: range
) -> None:
    mask = area_mask(
        torch.tensor([lam], dtype=torch.float64),
        torch.tensor([position], dtype=torch.float64),
        (4, 6),
    )
    by_hand = [[[0.0 if r in rows and c in columns else 1.0 for c in range(6)] for r in range(4)]]
    torch.testing.assert_close(mask, torch.tensor(by_hand, dtype=torch.float64))


def test_a_box_of_a_few_pixels_of_a_large_image_keeps_its_sides() -> None:
    lam = torch.tensor([1 - 1e-4, 1 - 1e-6], dtype=torch.float64)
    mask = area_mask(lam, torch.zeros(2, 2, dtype=torch.float64), (200, 3000))
    for i, (rows, columns, height) in enumerate([(2, 30, 1.0), (1, 3, 0.2)]):
        by_hand = torch.ones(200, 3000, dtype=torch.float64)
        by_hand[:rows, :columns] = 1 - height
        torch.testing.assert_close(mask[i], by_hand, rtol=0, atol=1e-8)


@pytest.mark.parametrize("size", SIZES)
def test_coverage_is_what_counting_points_finds(size: tuple[int, ...]) -> None:
    """Each pixel is divided into a fine grid; the points inside the box are counted."""
    n, fine = 4, 50
    lam, position = torch.rand(n, dtype=torch.float64), boxes(n, len(size))
    mask = area_mask(lam, position, size)
    for i in range(n):
        side = (1 - float(lam[i])) ** (1 / len(size))
        counted = torch.ones(())
        for axis, pixels in enumerate(size):
            low = float(position[i, axis]) * (1 - side) * pixels
            points = (torch.arange(pixels * fine) + 0.5) / fine
            inside = ((points >= low) & (points <= low + side * pixels)).double()
            counted = counted[..., None] * inside.view(pixels, fine).mean(1)
        torch.testing.assert_close(mask[i], 1 - counted, rtol=0, atol=len(size) / fine)


@pytest.mark.parametrize("size", SIZES)
def test_the_mean_of_the_mask_is_lam_and_its_derivative_one(size: tuple[int, ...]) -> None:
    special = torch.tensor([0, 1e-15, 1e-9, 0.5, 1 - 1e-6, 1 - 1e-12, 1 - 1e-16, 1]).double()
    lam = torch.cat([special, torch.rand(300, dtype=torch.float64)]).requires_grad_()
    mask = area_mask(lam, boxes(len(lam), len(size)), size)
    assert mask.shape == (len(lam), *size)
    assert float(mask.detach().min()) >= 0
    assert float(mask.detach().max()) <= 1
    mean = mask.flatten(1).mean(1)
    torch.testing.assert_close(mean, lam, rtol=0, atol=1e-12)
    (slope,) = torch.autograd.grad(mean.sum(), lam)
    torch.testing.assert_close(slope, torch.ones_like(slope), rtol=0, atol=1e-6)


def test_the_mean_in_single_precision() -> None:
    for lam in (torch.rand(50), torch.tensor([0.0, 1.0, 1 - 1e-7]), 1 - torch.logspace(-9, -1, 30)):
        lam.requires_grad_()
        mean = area_mask(lam, boxes(len(lam), 2, torch.float32), (16, 16)).flatten(1).mean(1)
        torch.testing.assert_close(mean, lam, rtol=0, atol=1e-6)
        (slope,) = torch.autograd.grad(mean.sum(), lam)
        torch.testing.assert_close(slope, torch.ones_like(slope), rtol=0, atol=1e-2)


@pytest.mark.parametrize("shape", [(5, 2, 7), (5, 2, 4, 6), (5, 1, 3, 2, 4)])
def test_the_image_is_differentiable(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    lam = (0.05 + 0.9 * torch.rand(5, dtype=torch.float64)).requires_grad_()
    partner, position = torch.tensor([3, 0, 1, 1, 2]), boxes(5, len(shape) - 2)
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda x, lam: mix_areas(x, lam, partner, position), (x, lam))


def test_the_derivative_at_the_ends_is_one_sided() -> None:
    position, h = boxes(1, 2), 1e-7
    weights = torch.randn(5, 6, dtype=torch.float64)

    def f(lam: Tensor) -> Tensor:
        return (weights * area_mask(lam, position, (5, 6))[0]).sum()

    for end, towards in [(0.0, 1), (1.0, -1)]:
        lam = torch.tensor([end], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(f(lam), lam)
        difference = (f(lam + towards * h) - f(lam)) / (towards * h)
        torch.testing.assert_close(slope[0], difference.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("lam", "position"),
    [(0.75, 0.5), (0.75, 0.0), (0.75, 1.0), (1 - 1 / 16, 0.0), (1 - 1 / 16, 1 / 3), (0.0, 0.5)],
)
def test_the_derivative_at_a_kink_is_that_of_the_shrinking_box(lam: float, position: float) -> None:
    """Borders of the box on borders of pixels."""
    at, h = torch.tensor([[position] * 2], dtype=torch.float64), 1e-7
    weights = torch.randn(4, 4, dtype=torch.float64)

    def f(lam: Tensor) -> Tensor:
        return (weights * area_mask(lam, at, (4, 4))[0]).sum()

    leaf = torch.tensor([lam], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(f(leaf), leaf)
    torch.testing.assert_close(slope[0], ((f(leaf + h) - f(leaf)) / h).detach(), rtol=0, atol=1e-5)


def test_the_ends_of_lam_leave_no_trace_of_the_other() -> None:
    x, partner = torch.ones(2, 1, 3, 3), torch.tensor([1, 0])
    x[1] = 1e30
    position = boxes(2, 2, torch.float32)
    assert torch.equal(mix_areas(x, torch.ones(2), partner, position), x)
    assert torch.equal(mix_areas(x, torch.zeros(2), partner, position), x[partner])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lam_dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype, lam_dtype: torch.dtype) -> None:
    x = torch.randn(4, 3, 5, 6).to(dtype)
    lam = torch.tensor([0.0, 0.25, 0.8125, 1.0], dtype=lam_dtype)
    partner, position = torch.tensor([1, 2, 3, 0]), boxes(4, 2, torch.float32)
    mixed = mix_areas(x, lam, partner, position)
    assert mixed.dtype == dtype
    exact = mix_areas(x.double(), lam.double(), partner, position)
    close = {torch.float64: 1e-13, torch.float32: 1e-5}.get(dtype, 3e-2)
    torch.testing.assert_close(mixed.double(), exact, rtol=close, atol=close)


def test_a_box_in_a_coarse_lam_is_as_fine_as_in_a_float32_one() -> None:
    """bfloat16 cannot tell pixel 257 from 256: the geometry is not computed in it."""
    x, position = torch.arange(2.0).view(2, 1, 1).expand(2, 1, 600), torch.tensor([[0.9], [0.2]])
    partner, lam = torch.tensor([1, 0]), torch.tensor([0.5, 0.75])
    exact = mix_areas(x, lam, partner, position)
    coarse = mix_areas(x.bfloat16(), lam.bfloat16(), partner, position)
    torch.testing.assert_close(coarse.float(), exact, rtol=0, atol=4e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_memory_format_is_kept(channels: int) -> None:
    lam, partner = torch.rand(4), torch.tensor([1, 0, 3, 2])
    x = torch.randn(4, channels, 5, 6).contiguous(memory_format=torch.channels_last)
    mixed = mix_areas(x, lam, partner, boxes(4, 2, torch.float32))
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert mixed.stride() == (x * 1).stride()
    volume = torch.randn(4, channels, 3, 5, 6).contiguous(memory_format=torch.channels_last_3d)
    mixed = mix_areas(volume, lam, partner, boxes(4, 3, torch.float32))
    assert mixed.is_contiguous(memory_format=torch.channels_last_3d)
    assert mix_areas(x.contiguous(), lam, partner, boxes(4, 2, torch.float32)).is_contiguous()


def test_boxes_are_drawn_uniformly_from_the_generators_stream() -> None:
    x = torch.zeros(3000, 1, 4, 4)
    g, by_hand = torch.Generator().manual_seed(8), torch.Generator().manual_seed(8)
    position = AreaMixing().draw(x, g).position
    assert position is not None
    assert torch.equal(position, torch.rand(3000, 2, generator=by_hand))
    assert torch.equal(g.get_state(), by_hand.get_state())
    for axis in range(2):
        counts = torch.histc(position[:, axis], 10, 0, 1)
        assert float(((counts - 300) ** 2 / 300).sum()) < 27.9  # χ²(9), p = 0.001
    correlation = float(torch.corrcoef(position.T)[0, 1])
    assert abs(correlation) < 4 / math.sqrt(3000)
    before = torch.get_rng_state()
    AreaMixing().draw(x, torch.Generator())
    assert torch.equal(torch.get_rng_state(), before)
    AreaMixing().draw(x, None)
    assert not torch.equal(torch.get_rng_state(), before)


def test_given_boxes_are_used() -> None:
    given = AreaMixing(torch.zeros(2, 1))
    assert given.draw(torch.zeros(2, 1, 4), None) is given
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]], [[5.0, 6.0, 7.0, 8.0]]])
    lam, partner = torch.tensor([0.5, 0.875]), torch.tensor([1, 0])
    out = given.logits(lambda x: x.flatten(1), nn.Identity(), x, lam, partner)
    assert out.tolist() == [[5.0, 6.0, 3.0, 4.0], [3.0, 6.0, 7.0, 8.0]]


def test_refusals() -> None:
    x, lam, partner = torch.zeros(2, 3), torch.rand(2), torch.tensor([1, 0])
    message = re.escape("at least one spatial dimension, got [2, 3]; use InputMixing or Hidden")
    with pytest.raises(ValueError, match=message):
        AreaMixing().draw(x, None)
    with pytest.raises(ValueError, match=message):
        mix_areas(x, lam, partner, torch.rand(2, 0))
    image, model = torch.zeros(2, 1, 4, 4), nn.Identity()
    with pytest.raises(ValueError, match=r"has no boxes yet.*draw\(x, generator\)"):
        AreaMixing().logits(model, model, image, lam, partner)
    for position in (torch.rand(3, 2), torch.rand(2, 1), torch.zeros(2, 2).long()):
        with pytest.raises(ValueError, match=r"floating with shape \[2, 2\], one fraction for"):
            mix_areas(image, lam, partner, position)
    for off in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"position must lie in \[0, 1\].*; got values from"):
            AreaMixing(torch.tensor([[0.5, 0.5], [0.5, off]])).draw(image, None)
