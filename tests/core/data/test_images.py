from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from core.data import DeviceImages, source_from_arrays
from core.data.images import shrink, wrap

rng = np.random.default_rng(0)
PIXELS = rng.integers(0, 256, (20, 3, 5, 5), dtype=np.uint8)
LABELS = np.arange(20) % 4


def read_only(array: np.ndarray) -> np.ndarray:
    frozen = array.copy()
    frozen.flags.writeable = False
    return frozen


@pytest.mark.parametrize("frozen", [False, True])
def test_batches_are_the_rows_asked_for(frozen: bool) -> None:
    pixels, labels = (read_only(a) if frozen else a for a in (PIXELS, LABELS))
    subset = torch.tensor([19, 3, 3, 7, 0])
    images = DeviceImages(pixels, labels, subset)
    assert len(images) == 5
    assert images.labels.tolist() == LABELS[subset.numpy()].tolist()
    (x, y), (x2, y2) = images.batches([torch.tensor([4, 0]), torch.tensor([1])])
    np.testing.assert_array_equal(x.numpy(), PIXELS[[0, 19]])
    assert x.dtype == torch.uint8
    assert y.tolist() == [0, 3]
    np.testing.assert_array_equal(x2.numpy(), PIXELS[[3]])
    assert y2.tolist() == [3]


def test_shared_memory_is_not_copied_and_not_written() -> None:
    frozen = read_only(PIXELS)
    assert wrap(frozen).data_ptr() == frozen.ctypes.data
    images = DeviceImages(frozen, read_only(LABELS))
    (x, _) = next(images.batches([torch.arange(20)]))
    x.zero_()
    np.testing.assert_array_equal(frozen, PIXELS)


def test_sources_are_pickled_whole() -> None:
    source = source_from_arrays("mine", PIXELS, LABELS, PIXELS, LABELS)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.classes == source.classes
    x, y = next(copy.images("test", torch.tensor([2, 1])).batches([torch.tensor([0, 1])]))
    np.testing.assert_array_equal(x.numpy(), PIXELS[[2, 1]])
    assert y.tolist() == [2, 1]
    assert len(copy.images("train")) == 20


def test_wrong_part_and_indices() -> None:
    source = source_from_arrays("mine", PIXELS, LABELS, PIXELS[:8], LABELS[:8])
    with pytest.raises(ValueError, match="part must be 'train' or 'test', got 'val'"):
        source.images("val")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"lie in 0\.\.7 for test, span 3\.\.8"):
        source.images("test", torch.tensor([3, 8]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_images_on_a_gpu_equal_those_on_the_cpu() -> None:
    subset = torch.tensor([19, 3, 7])
    order = [torch.tensor([2, 0]), torch.tensor([1])]
    here = DeviceImages(PIXELS, LABELS, subset).batches(order)
    there = DeviceImages(PIXELS, LABELS, subset, "cuda").batches(order)
    for (x, y), (gx, gy) in zip(here, there, strict=True):
        assert gx.is_cuda
        assert torch.equal(x, gx.cpu())
        assert torch.equal(y, gy.cpu())


def test_shrink_averages_areas() -> None:
    # 5 -> 2: the two new pixels cover the old ones 0..2 and 2..4.
    small = shrink(torch.from_numpy(PIXELS), 2).numpy()
    for i, rows in enumerate((slice(0, 3), slice(2, 5))):
        for j, columns in enumerate((slice(0, 3), slice(2, 5))):
            exact = PIXELS[:, :, rows, columns].astype(float).mean(axis=(2, 3))
            assert np.abs(small[:, :, i, j] - exact).max() <= 0.5 + 1e-4
    assert small.dtype == np.uint8
    assert shrink(torch.from_numpy(PIXELS), 5).data_ptr() == PIXELS.ctypes.data
