from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from core.data import DeviceImages, Padding, Transform
from tests.support.streams import generator

rng = np.random.default_rng(0)


def random_images(count: int, channels: int, size: int) -> torch.Tensor:
    return torch.from_numpy(rng.integers(0, 256, (count, channels, size, size), dtype=np.uint8))


def test_statistics_equal_numpy_in_float64() -> None:
    pixels = rng.integers(0, 256, (700, 3, 9, 9), dtype=np.uint8)
    pixels[:, 1] //= 4
    rows = torch.randperm(700, generator=generator())[:600]
    images = DeviceImages(pixels, np.zeros(700, np.int64), rows)
    transform = Transform.fit(images, flip=True, translate=2)
    scaled = pixels[rows.numpy()].astype(np.float64) / 255
    np.testing.assert_allclose(transform.mean, scaled.mean(axis=(0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(transform.std, scaled.std(axis=(0, 2, 3)), rtol=1e-13)
    assert (transform.flip, transform.translate) == (True, 2)


def test_a_constant_channel_becomes_zero() -> None:
    pixels = np.full((4, 1, 3, 3), 77, np.uint8)
    transform = Transform.fit(DeviceImages(pixels, np.zeros(4, np.int64)))
    assert transform.std == (1.0,)
    assert transform.evaluate(torch.from_numpy(pixels)).abs().max() < 1e-6


def test_evaluate_normalises() -> None:
    x = random_images(5, 3, 4)
    transform = Transform((0.5, 0.25, 0.1), (0.2, 0.3, 0.4), flip=True, translate=1)
    out = transform.evaluate(x)
    assert out.dtype == torch.float32
    expected = x.double().numpy() / 255
    expected = (expected - [[[0.5]], [[0.25]], [[0.1]]]) / np.array([[[0.2]], [[0.3]], [[0.4]]])
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_unit_maps_pixels_to_minus_one_to_one() -> None:
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(4, 2, 16, 16)
    images = DeviceImages(x.numpy(), np.zeros(4, np.int64))
    transform = Transform.fit(images, normalisation="unit", translate=1)
    out = transform.evaluate(x)
    expected = (np.arange(256) / 127.5 - 1).reshape(1, 1, 16, 16)
    np.testing.assert_allclose(out.numpy(), np.broadcast_to(expected, x.shape), atol=1e-7)
    assert (float(out.min()), float(out.max())) == (-1, 1)
    assert transform.translate == 1


@pytest.mark.parametrize("padding", ["zero", "reflect"])
@pytest.mark.parametrize(("flip", "translate"), [(True, 0), (False, 2), (True, 2)])
def test_train_is_a_flip_and_a_shift_of_every_sample(
    flip: bool, translate: int, padding: Padding
) -> None:
    """With what numpy pads."""
    x, t = random_images(500, 2, 7), translate
    transform = Transform((0.4, 0.6), (0.2, 0.3), flip, translate, padding)
    out = transform.train(x, generator()).numpy()
    assert out.dtype == np.float32
    mode: Any = "reflect" if padding == "reflect" else "constant"
    places = [(m, i, j) for m in {False, flip} for i in range(2 * t + 1) for j in range(2 * t + 1)]
    seen: Counter[tuple[bool, int, int]] = Counter()
    for image, result in zip(transform.evaluate(x).numpy(), out, strict=True):
        padded = np.pad(image, ((0, 0), (t, t), (t, t)), mode=mode)
        # The images are noise: one flip and shift at most can explain the result.
        matches = [
            (mirrored, top, left)
            for mirrored, top, left in places
            if np.array_equal(
                (padded[:, :, ::-1] if mirrored else padded)[:, top : top + 7, left : left + 7],
                result,
            )
        ]
        assert len(matches) == 1
        seen[matches[0]] += 1
    assert len(seen) == len(places)
    # Uniform: no count further than five standard deviations from its expectation.
    share = 1 / len(places)
    bound = 5 * math.sqrt(500 * share * (1 - share))
    assert all(abs(n - 500 * share) < bound for n in seen.values())


def test_noise_is_gaussian_and_added_in_training_alone() -> None:
    x = random_images(300, 1, 6)
    plain = Transform((0.5,), (0.25,), flip=True, translate=1)
    noisy = Transform((0.5,), (0.25,), flip=True, translate=1, noise=0.15)
    assert torch.equal(noisy.evaluate(x), plain.evaluate(x))
    out = noisy.train(x, generator(1))
    assert out.dtype == torch.float32
    # Flips and shifts are drawn first, so they are the same ones.
    noise = (out - plain.train(x, generator(1))).double().flatten().numpy()
    count = len(noise)  # 10,800; each bound is five standard deviations
    assert abs(noise.mean()) < 5 * 0.15 / count**0.5
    assert abs(noise.std() / 0.15 - 1) < 5 / (2 * count) ** 0.5
    assert abs((noise**4).mean() / 0.15**4 - 3) < 5 * (96 / count) ** 0.5
    assert np.unique(noise).size > 0.9 * count
    assert torch.equal(noisy.train(x, generator(1)), out)
    assert not torch.equal(noisy.train(x, generator(2)), out)


def test_the_generator_fixes_the_augmentation() -> None:
    x = random_images(50, 1, 6)
    transform = Transform((0.5,), (0.5,), flip=True, translate=2)
    before = torch.get_rng_state()
    first = transform.train(x, generator(1))
    assert torch.equal(first, transform.train(x, generator(1)))
    assert not torch.equal(first, transform.train(x, generator(2)))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_augmentation_nothing_is_drawn_and_the_input_stays() -> None:
    x = random_images(3, 1, 6)
    copy = x.clone()
    transform = Transform((0.5,), (0.5,))
    g = generator()
    state = g.get_state()
    assert torch.equal(transform.train(x, g), transform.evaluate(x))
    assert torch.equal(g.get_state(), state)
    Transform((0.5,), (0.5,), True, 2).train(x, g)
    assert torch.equal(x, copy)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cpu_generator_gives_the_same_augmentation_on_a_gpu() -> None:
    x = random_images(50, 3, 8)
    transform = Transform((0.5,) * 3, (0.5,) * 3, True, 2, padding="reflect", noise=0.3)
    there = transform.train(x.cuda(), generator(1))
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), transform.train(x, generator(1)))


def test_errors_name_value_and_limit() -> None:
    with pytest.raises(ValueError, match="one value a channel, got 1 and 2"):
        Transform((0.5,), (0.5, 0.5))
    with pytest.raises(ValueError, match="std must be positive"):
        Transform((0.5,), (0.0,))
    with pytest.raises(ValueError, match="translate must be >= 0 pixels, got -1"):
        Transform((0.5,), (0.5,), translate=-1)
    with pytest.raises(ValueError, match="padding must be zero or reflect, got 'edge'"):
        Transform((0.5,), (0.5,), padding="edge")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="noise must be finite and at least 0, got -1"):
        Transform((0.5,), (0.5,), noise=-1)
    with pytest.raises(ValueError, match="normalisation must be standard, unit, gcn-zca; got 'l2'"):
        Transform.fit(
            DeviceImages(np.zeros((1, 1, 2, 2), np.uint8), np.zeros(1, np.int64)),
            normalisation="l2",  # type: ignore[arg-type]
        )
    with pytest.raises(ValueError, match="translate=4 would push images of 4x4 pixels out"):
        Transform((0.5,), (0.5,), translate=4).train(random_images(1, 1, 4), generator())
    with pytest.raises(ValueError, match=r"expected uint8 \[B, 1, H, W\], got torch.float32"):
        Transform((0.5,), (0.5,)).evaluate(torch.zeros(1, 1, 2, 2))
    with pytest.raises(ValueError, match=r"expected uint8 \[B, 1, H, W\]"):
        Transform((0.5,), (0.5,)).evaluate(random_images(1, 3, 4))
    empty = DeviceImages(np.zeros((0, 1, 2, 2), np.uint8), np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="empty image set"):
        Transform.fit(empty)


def test_any_memory_layout_is_taken() -> None:
    x = random_images(6, 3, 8)
    transform = Transform((0.5,) * 3, (0.5,) * 3, flip=True, translate=1)
    last = x.contiguous(memory_format=torch.channels_last)
    for t in (transform, Transform((0.5,) * 3, (0.5,) * 3, flip=True)):
        assert torch.equal(t.train(last, generator()), t.train(x, generator()))


def test_strides_of_the_pixels_do_not_show() -> None:
    # Pickling (as to a worker) turns the stride of a single channel from 1 to H·W; convolutions
    # take that for another memory format and round differently.
    pixels = torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8)
    odd = torch.as_strided(pixels, (4, 1, 8, 8), (64, 1, 8, 1))
    assert odd.stride() != pixels.stride()
    transform = Transform((0.5,), (0.25,))
    assert transform.evaluate(odd).stride() == transform.evaluate(pixels).stride() == (64, 64, 8, 1)
    moving = Transform((0.5,), (0.25,), flip=True, translate=1)
    streams = [torch.Generator().manual_seed(0) for _ in range(2)]
    one, two = (moving.train(x, g) for x, g in zip((odd, pixels), streams, strict=True))
    assert one.stride() == two.stride()
    assert torch.equal(one, two)
