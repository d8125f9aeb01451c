"""ImageNet's layout and crops, on pictures whose colors tell where a pixel comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data import Source, load_source
from core.data import streaming as module
from core.policies import LearnedConfig
from core.semi_supervised.config import SemiSupervisedConfig
from core.training.config import TrainingConfig
from core.training.few_labels import SemiSupervisedTraining
from core.training.fit import reproducible

WIDTH, HEIGHT = 300, 200


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Red grows from left to right, green from top to bottom, 0 to 255."""
    red = np.broadcast_to(np.linspace(0, 255, WIDTH), (HEIGHT, WIDTH))
    green = np.broadcast_to(np.linspace(0, 255, HEIGHT)[:, None], (HEIGHT, WIDTH))
    ramp = np.stack([red, green, np.full_like(red, 99)], axis=2).astype(np.uint8)
    for part in ("train", "val"):
        for name in ("n01440764", "n01443537"):
            folder = tmp_path / "imagenet" / part / name
            folder.mkdir(parents=True)
            for i in range(3):
                file = folder / f"ILSVRC2012_{part}_{i:08d}.JPEG"
                Image.fromarray(ramp).save(file, quality=98, subsampling=0)
    return load_source("imagenet", root=tmp_path)


def crops(source: Source, seed: int, count: int = 60) -> torch.Tensor:
    images = source.images("train")
    order = (torch.arange(count) % 6).split(7)
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([x for x, _ in images.batches(order, generator)])


def boxes(x: torch.Tensor) -> tuple[np.ndarray, ...]:
    """Left, right, top, bottom of each crop in pixels, read from the colors of its edges."""
    red, green = x[:, 0].double().mean(1).numpy(), x[:, 1].double().mean(2).numpy()
    result = []
    for values, full in ((red, WIDTH), (green, HEIGHT)):
        # The color at the crop's edge lies half a pixel outside the outermost pixel's center;
        # the slope comes from the middle, where the resizing filter is not cut off.
        slope = (values[:, 80] - values[:, 20]) / 60
        middle = (values[:, 49] + values[:, 50]) / 2
        for side in (-50, 50):
            result.append((middle + side * slope) / 255 * (full - 1) + 0.5)
    return tuple(result)


def test_layout(source: Source) -> None:
    assert source.classes == ("n01440764", "n01443537")
    assert (source.in_channels, source.image_size) == (3, 100)
    assert source.train_labels.tolist() == source.test_labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_evaluation_takes_the_centre(source: Source) -> None:
    for part in ("train", "test"):
        x, y = next(source.images(part).batches([torch.tensor([5, 0])]))
        assert x.shape == (2, 3, 100, 100)
        assert y.tolist() == [1, 0]
        # The shorter side, 200 pixels, becomes 114: the crop is 100 / 114 of it.
        side = 200 * 100 / 114
        for value, expected in zip(
            boxes(x), (150 - side / 2, 150 + side / 2, 100 - side / 2, 100 + side / 2), strict=True
        ):
            np.testing.assert_allclose(value, expected, atol=1.5)


def test_the_test_part_is_never_cropped_at_random(source: Source) -> None:
    images, order = source.images("test"), [torch.arange(6)]
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(next(images.batches(order))[0], next(images.batches(order, generator))[0])


def test_random_crops_keep_to_their_area_and_aspect(source: Source) -> None:
    left, right, top, bottom = boxes(crops(source, seed=0, count=300))
    width, height = right - left, bottom - top
    assert min(left.min(), top.min()) > -2
    assert right.max() < WIDTH + 2
    assert bottom.max() < HEIGHT + 2
    area, aspect = width * height / (WIDTH * HEIGHT), width / height
    assert area.min() > 0.07
    assert area.max() <= 1.02
    assert aspect.min() > 0.75 * 0.95
    assert aspect.max() < 4 / 3 * 1.05
    # They differ, and reach far: small and large, tall and wide, left and right.
    assert area.min() < 0.15
    assert area.max() > 0.8
    assert aspect.min() < 0.85
    assert aspect.max() > 1.2
    assert left.min() < 5
    assert right.max() > WIDTH - 5


def test_crops_depend_on_seed_and_position_only(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = crops(source, seed=0)
    assert not torch.equal(first, crops(source, seed=1))
    # The same picture at two positions of the epoch is cropped in two ways.
    assert not torch.equal(first[0], first[6])
    monkeypatch.setattr(module, "num_threads", lambda: 1)
    monkeypatch.setattr(module, "_FILES_A_TASK", 3)
    monkeypatch.setattr(module, "_BATCHES_AHEAD", 0)
    assert torch.equal(first, crops(source, seed=0))


def test_a_call_takes_one_number_of_the_generator(source: Source) -> None:
    generator, twin = (torch.Generator().manual_seed(3) for _ in range(2))
    for _ in source.images("train").batches([torch.arange(6), torch.arange(2)], generator):
        pass
    torch.randint(2**62, (), generator=twin)
    assert torch.equal(generator.get_state(), twin.get_state())


@pytest.mark.parametrize("views", [1, 2, 3])
def test_each_view_of_an_unlabelled_picture_is_a_crop_of_its_own(
    source: Source, tmp_path: Path, views: int
) -> None:
    """All pictures are equal, so crops of two views differ where they were drawn, and nowhere else.

    Pictures of meta-validation are cropped as those of evaluation: at the center."""
    semi = SemiSupervisedConfig("mixmatch", 2, ema=0.5, augmentations=views)
    config = TrainingConfig(
        "imagenet", "cnn", LearnedConfig(), image_size=16, meta_size=2, width=2, epochs=1,
        batch_size=2, meta_batch_size=2, flip=False, semi=semi,
    )  # fmt: skip
    source = load_source("imagenet", root=tmp_path, image_size=16)
    with reproducible(0, device="cpu", threads=1):
        training = SemiSupervisedTraining(config, source, "cpu")
        (batch,) = training._batches(training._unlabelled_order())
    (center, _) = next(source.images("test").batches([torch.tensor([0, 1])]))
    assert batch.val is not None
    assert torch.equal(batch.val[0], training._images.transform.evaluate(center))
    assert len(batch.views) == views
    seen = [batch.labelled[0], *batch.views]
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_other_crop_sizes_and_small_pictures(source: Source, tmp_path: Path) -> None:
    folder = tmp_path / "imagenet" / "train" / "n01440764"
    # Gray, and CMYK, and both smaller than the crop: ImageNet has such files.
    Image.new("L", (40, 30), 7).save(folder / "ILSVRC2012_train_00000000.JPEG")
    Image.new("CMYK", (30, 500), (0, 0, 0, 0)).save(folder / "ILSVRC2012_train_00000001.JPEG")
    images = load_source("imagenet", root=tmp_path, image_size=64).images("train")
    for generator in (None, torch.Generator().manual_seed(0)):
        x, _ = next(images.batches([torch.tensor([0, 1, 2])], generator))
        assert x.shape == (3, 3, 64, 64)
        assert x[0].unique().tolist() == [7]
        assert x[1].min() >= 254


def test_missing_trees_say_how_to_lay_them_out(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"lacks train and val.*never downloaded") as caught:
        load_source("imagenet", root=tmp_path)
    assert str(tmp_path / "imagenet" / "val" / "WNID" / "*.JPEG") in str(caught.value)
    (tmp_path / "imagenet" / "train").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="imagenet lacks val;"):
        load_source("imagenet", root=tmp_path)
