"""The truth is numpy in float64; the inverse root is checked by what defines it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core.data import DeviceImages, Transform, Whitening, load_source, whitening
from core.data.whitening import normalize_contrast

SHAPES = pytest.mark.parametrize("shape", [(1, 4, 4), (3, 3, 3)], ids=["gray", "color"])


def make_pixels(count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Neighbouring pixels go together, more or less so."""
    r = np.random.default_rng(0)
    smooth = r.normal(size=(count, *shape)).cumsum(-1).cumsum(-2)
    return np.clip(120 + 30 * smooth, 0, 255).astype(np.uint8)


def images_of(pixels: np.ndarray) -> DeviceImages:
    return DeviceImages(pixels, np.zeros(len(pixels), np.int64))


def contrast(pixels: np.ndarray) -> np.ndarray:
    """Global contrast normalisation, image by image."""
    rows = []
    for image in pixels.astype(np.float64):
        centered = image.ravel() - image.sum() / image.size
        rows.append(55 * centered / np.sqrt((centered**2).sum()))
    return np.array(rows)


def test_contrast_normalisation_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0, 6.0]], dtype=torch.float64)  # mean 3: -2, -1, 0, 3; norm √14
    expected = torch.tensor([[-2.0, -1.0, 0.0, 3.0]], dtype=torch.float64) * 55 / 14**0.5
    torch.testing.assert_close(normalize_contrast(x), expected)
    torch.testing.assert_close(normalize_contrast(7 * x + 5), expected)


@pytest.mark.parametrize("value", [0, 77, 255])
def test_an_image_of_one_value_becomes_zero(value: int) -> None:
    """To the last bit, in float32 too: a rounding error would be scaled to a norm of 55."""
    x = torch.full((2, 3 * 64 * 64), float(value))
    assert torch.equal(normalize_contrast(x), torch.zeros_like(x))


@SHAPES
def test_the_matrix_is_the_inverse_root_of_the_covariance(shape: tuple[int, ...]) -> None:
    pixels = make_pixels(600, shape)  # three batches
    fitted = Whitening.fit(images_of(pixels))
    x = contrast(pixels)
    np.testing.assert_allclose(fitted.mean.numpy(), x.mean(0), rtol=1e-5, atol=1e-5)
    matrix = fitted.matrix.double().numpy()
    assert fitted.matrix.dtype == fitted.mean.dtype == torch.float32
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
    assert np.linalg.eigvalsh(matrix).min() > 0
    # The one symmetric positive matrix with this property.
    ridged = np.cov(x, rowvar=False) + 0.1 * np.eye(x.shape[1])
    np.testing.assert_allclose(matrix @ ridged @ matrix, np.eye(x.shape[1]), atol=1e-4)


@SHAPES
def test_other_images_are_whitened_by_what_was_fitted(shape: tuple[int, ...]) -> None:
    pixels = make_pixels(300, shape)
    transform = Transform.fit(images_of(pixels[:200]), normalisation="gcn-zca")
    assert transform.whitening is not None
    x = contrast(pixels)
    values, vectors = np.linalg.eigh(np.cov(x[:200].T))
    root = vectors @ np.diag((values + 0.1) ** -0.5) @ vectors.T
    expected = ((x - x[:200].mean(0)) @ root).reshape(pixels.shape)
    out = transform.evaluate(torch.from_numpy(pixels))
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-4)


def test_a_large_set_is_read_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = make_pixels(700, (1, 3, 3))
    monkeypatch.setattr(whitening, "_FIT_LIMIT", 280)
    fitted = Whitening.fit(images_of(pixels))
    monkeypatch.undo()
    rows = [int(i * 2.5) for i in range(280)]
    expected = Whitening.fit(images_of(pixels[rows]))
    assert torch.equal(fitted.matrix, expected.matrix)
    assert torch.equal(fitted.mean, expected.mean)
    assert not torch.allclose(fitted.matrix, Whitening.fit(images_of(pixels)).matrix)


def test_a_constant_corner_and_the_digits_stay_finite() -> None:
    """Pixels that never change have no variance at all: the ridge alone holds them."""
    images = load_source("digits").images("train")
    transform = Transform.fit(images, normalisation="gcn-zca", flip=True, translate=1, noise=0.15)
    (x, _), *_ = images.batches([torch.arange(100)])
    for out in (transform.evaluate(x), transform.train(x, torch.Generator().manual_seed(0))):
        assert bool(out.isfinite().all())
        assert 0.5 < float(out.square().mean()) < 2


def test_strides_of_the_pixels_do_not_show() -> None:
    pixels = torch.from_numpy(make_pixels(40, (3, 4, 4)))
    transform = Transform.fit(images_of(pixels.numpy()), normalisation="gcn-zca")
    last = pixels.contiguous(memory_format=torch.channels_last)
    out = transform.evaluate(last)
    assert out.stride() == (48, 16, 4, 1)
    assert torch.equal(out, transform.evaluate(pixels))


def test_errors_name_value_and_way_out() -> None:
    with pytest.raises(ValueError, match="2 images or more, got 1"):
        Whitening.fit(images_of(make_pixels(1, (1, 3, 3))))
    with pytest.raises(ValueError, match=r"27648 values needs .* choose a smaller image_size"):
        Whitening.fit(images_of(np.zeros((2, 3, 96, 96), np.uint8)))
    fitted = Whitening.fit(images_of(make_pixels(9, (1, 3, 3))))
    with pytest.raises(ValueError, match=r"fitted on images of 9 values, got 16 \(1, 4, 4\)"):
        fitted(torch.zeros(2, 1, 4, 4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_as_on_the_cpu() -> None:
    pixels = make_pixels(600, (3, 3, 3))
    here = Transform.fit(images_of(pixels), normalisation="gcn-zca", noise=0.15)
    there = Transform.fit(
        DeviceImages(pixels, np.zeros(600, np.int64), device="cuda"),
        normalisation="gcn-zca",
        noise=0.15,
    )
    assert there.whitening is not None
    assert there.whitening.matrix.is_cuda
    x = torch.from_numpy(pixels[:50])
    streams = [torch.Generator().manual_seed(0) for _ in range(2)]
    expected = here.train(x, streams[0])
    out = there.train(x.cuda(), streams[1])
    assert out.is_cuda
    torch.testing.assert_close(out.cpu(), expected, rtol=1e-4, atol=1e-4)
