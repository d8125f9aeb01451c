"""Data sets of a user's factory: arrays, Datasets, features; what is bad is refused in a line."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from core.data import load_source
from core.policies import LearnedConfig
from core.training.config import TrainingConfig
from core.training.fit import fit
from core.training.prepared_data import prepare_data
from tests.support.refusals import refused_in_a_line

MODULE = """
import io
import random
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

def pixels(n, *shape):
    return np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)

def features(n, *shape):
    return np.random.default_rng(1).normal(5, 3, (n, *shape))

def y(n): return np.arange(n) % 3
def both(x, labels=None):
    part = x, y(len(x)) if labels is None else labels
    return part, part

class Items(Dataset):
    classes = ["a", "b", "c"]
    def __init__(self, make, label=lambda i: i % 3, n=30): self.args = make, label, n
    def __len__(self): return self.args[2]
    def __getitem__(self, i): return self.args[0](i), self.args[1](i)

def image(i, mode="RGB", size=8): return Image.new(mode, (size, size), color=int(i))
def sets(*a, **k): return Items(*a, **k), Items(*a, **k)

def gray(): return both(pixels(30, 8, 8))
def pil(): return sets(image)
def pil_gray(): return sets(lambda i: image(i, "L"))
def tensors(): return sets(lambda i: torch.full((2, 5), float(i)), lambda i: torch.tensor(i % 3))
def draw(i): return torch.tensor([torch.rand(()), np.random.rand(), random.random()])
def random_items(): return sets(draw, lambda i: i % 3)
def mirrored(i): return torch.arange(64, dtype=torch.uint8).view(8, 8).roll(random.randrange(2))
def random_images(): return sets(mirrored)
generator = np.random.default_rng(0)
def of_its_own(): return sets(lambda i: generator.random(3))
def rare(i): return np.full(3, np.random.rand() if i == 29 else float(i))
def rarely(): return sets(rare, lambda i: 2 if i == 29 else i % 2)
def table(): return both(features(60, 4))
def seconds():
    x = features(60, 4); x[:, 2] += 1.7e9
    return both(x)
def constant():
    x = features(60, 4); x[:, 2] = 0.1  # its standard deviation rounds to 1e-17
    return both(x)
def huge():
    x = features(60, 4); x[7, 1] = 1e39
    return both(x)
def with_root(root): return both(torch.from_numpy(pixels(30, 3, 8, 8)), torch.arange(30) % 3)
def net(in_channels, num_classes): return nn.Linear(in_channels, num_classes)

def three(): return 1, 2, 3
def number(): return 3, 4
def empty(): return sets(image, n=0)
def deep(): return sets(lambda i: image(300 + i, "I;16"))
def changing(): return sets(lambda i: image(0, size=8 + (i == 7)))
def failing(): return sets(lambda i: 1 / (i - 4))
def truncated(): return sets(lambda i: cut(i) if i == 5 else image(i))
def ragged(): return sets(lambda i: [[1.0], [2.0, 3.0]])
def ragged_whole(): return ([[1.0], [2.0, 3.0]], [0, 1]), ([[1.0], [2.0, 3.0]], [0, 1])
def narrow(): return sets(lambda i: torch.full((4,), float(i), dtype=torch.bfloat16))
def narrow_whole(): return both(torch.from_numpy(features(30, 4)).bfloat16())

def cut(i):
    file = io.BytesIO()
    image(i, size=64).save(file, "PNG")
    return Image.open(io.BytesIO(file.getvalue()[:-60]))

def strings(): return sets(image, lambda i: "cat")
def floats(): return both(features(30, 4), np.linspace(0, 1, 30))
def multi(): return both(features(30, 4), np.eye(3)[y(30)])
def negative(): return both(features(30, 4), y(30) - 1)
def gap(): return both(features(30, 4), y(30) * 2)
def not_a_number(): return both(np.where(features(30, 4) > 9, np.nan, 1.0))
def channels_last(): return both(pixels(30, 8, 8, 3))
def integers(): return both(pixels(30, 4).astype(int))
def counts(): return both(pixels(30, 8, 8), y(29))
def shapes(): return both(pixels(30, 8, 8))[0], both(pixels(30, 9, 9))[0]
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Returns the user's file, in the current folder."""
    (tmp_path / "data_of_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "shape", "images"),
    [
        ("gray", (1, 8, 8), True),
        ("pil", (3, 8, 8), True),
        ("pil_gray", (1, 8, 8), True),
        ("with_root", (3, 8, 8), True),
        ("tensors", (2, 5), False),
        ("table", (4,), False),
        ("narrow", (4,), False),
        ("narrow_whole", (4,), False),
    ],
)
def test_arrays_and_datasets_become_sources(
    name: str, shape: tuple[int, ...], images: bool
) -> None:
    source = load_source(f"data_of_mine:{name}")
    assert (source.shape, source.holds_images, source.num_classes) == (shape, images, 3)
    assert source.train_labels.tolist()[:4] == [0, 1, 2, 0]
    assert source.fingerprint() == load_source(f"data_of_mine:{name}").fingerprint()
    if name == "pil":
        assert source.classes == ("a", "b", "c")
        pixels, _ = next(source.images("train").batches([torch.tensor([29])]))
        assert pixels.unique().tolist() == [0, 29]  # an integer is the red of a color image


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("three", "must return .train, test., got tuple of 3"),
        ("number", "train is of type int"),
        ("deep", r"train\[0\] is a PIL image of mode I;16, with more than 8 bits a pixel"),
        ("empty", "train is empty"),
        ("changing", r"train\[7\] is uint8 \(3, 9, 9\), item 0 is uint8 \(3, 8, 8\)"),
        ("failing", r"train\[4\] gives no \(item, label\): ZeroDivisionError"),
        ("truncated", r"train\[5\] cannot be made an array: OSError: .*truncated"),
        ("ragged", r"train\[0\] cannot be made an array: ValueError: .*inhomogeneous"),
        ("ragged_whole", r"train cannot be made an array: ValueError: .*inhomogeneous"),
        ("strings", "label 'cat' is no integer"),
        ("floats", "labels are float64, not integers; .*`core` takes"),
        ("multi", r"labels are of shape \[30, 3\]; .*`core` takes"),
        ("negative", "label -1 is below 0"),
        ("gap", "class 1 has no training item"),
        ("not_a_number", "value nan at"),
        ("channels_last", r"move the channels forward: x.transpose\(0, 3, 1, 2\)"),
        ("integers", "must be uint8 images or floating point"),
        ("counts", "has 30 items and 29 labels"),
        ("shapes", "train items are .*test items are|they must agree"),
        ("absent", "cannot be imported"),
        ("seconds", r"feature 2 varies by less than a millionth of its mean, 1\.7e\+09"),
        ("huge", r"value 1e\+39 at \(7, 1\); replace what is not finite in float32"),
    ],
)
def test_bad_data_are_refused_in_a_line(name: str, message: str) -> None:
    with refused_in_a_line(message, f"data_of_mine:{name}"):
        load_source(f"data_of_mine:{name}")


@pytest.mark.parametrize(("name", "shape"), [("pil_gray", (1, 8, 8)), ("tensors", (2, 5))])
def test_more_than_memory_holds_is_streamed_alike(name: str, shape: tuple[int, ...]) -> None:
    held = load_source(f"data_of_mine:{name}")
    streamed = load_source(f"data_of_mine:{name}", memory_limit=100)
    assert isinstance(held.train_data, np.ndarray)
    assert not isinstance(streamed.train_data, np.ndarray)
    assert (streamed.shape, streamed.holds_images) == (shape, held.holds_images)
    assert streamed.classes == held.classes
    before = torch.get_rng_state()
    order = [torch.tensor([3, 1]), torch.tensor([0])]
    rows = torch.tensor([9, 4, 7, 29])
    for part in ("train", "test"):
        pairs = (s.images(part, rows).batches(order) for s in (held, streamed))  # type: ignore[arg-type]
        for (x, y), (x_streamed, y_streamed) in zip(*pairs, strict=True):
            assert torch.equal(x, x_streamed)
            assert torch.equal(y, y_streamed)
        np.testing.assert_array_equal(held.hashes(part), streamed.hashes(part))  # type: ignore[arg-type]
    assert torch.equal(before, torch.get_rng_state())


def test_a_training_on_streamed_items_equals_one_on_held_items() -> None:
    settings = {"flip": False, "meta_size": 6, "epochs": 1, "batch_size": 12}
    ours = TrainingConfig("data_of_mine:pil_gray", "cnn", LearnedConfig(), width=2, **settings)
    held, streamed = (
        fit(ours, source=load_source("data_of_mine:pil_gray", **limit)).history[0]
        for limit in ({}, {"memory_limit": 100})
    )
    assert {**held, "train_seconds": 0.0} == {**streamed, "train_seconds": 0.0}


def test_streamed_images_are_shrunk() -> None:
    held, streamed = (
        load_source("data_of_mine:pil_gray", image_size=4, **limit)
        for limit in ({}, {"memory_limit": 100})
    )
    assert streamed.shape == held.shape == (1, 4, 4)
    for source in (held, streamed):
        x, _ = next(source.images("train").batches([torch.tensor([5])]))
        assert torch.equal(x, torch.full((1, 1, 4, 4), 5, dtype=torch.uint8))
    np.testing.assert_array_equal(held.hashes("test"), streamed.hashes("test"))


def test_draws_of_streamed_items_follow_the_generator() -> None:
    """Two epochs differ, the same epoch does not, however many processes read it."""
    drawn = load_source("data_of_mine:random_items", memory_limit=100).images("train")
    order = torch.arange(30).split(4)

    def epoch(seed: int) -> list[float]:
        generator = torch.Generator().manual_seed(seed)
        return torch.cat([x for x, _ in drawn.batches(order, generator)]).flatten().tolist()

    assert epoch(1) == epoch(1) != epoch(2)
    assert len(set(epoch(1))) == 90


def test_a_stream_that_no_seed_reaches_is_refused() -> None:
    with refused_in_a_line(r"random stream of its own.* draw from torch's"):
        load_source("data_of_mine:of_its_own")


def test_items_of_a_rare_class_that_draw_alone_are_noticed() -> None:
    images = load_source("data_of_mine:rarely").images("train")
    generator = torch.Generator().manual_seed(0)
    (first, _), (second, _) = (
        next(images.batches([torch.arange(30)], generator)) for _ in range(2)
    )
    assert (first != second).any(1).nonzero().flatten().tolist() == [29]


@pytest.mark.parametrize("name", ["random_items", "random_images"])
def test_items_that_draw_are_drawn_anew_whatever_their_size(name: str) -> None:
    """Held in memory they would stay as the first reading drew them, in all epochs."""

    def streams() -> list[object]:
        numpy = np.random.get_state()[1]  # noqa: NPY002
        return [random.getstate(), numpy.tolist(), torch.get_rng_state().tolist()]

    before = streams()
    source = load_source(f"data_of_mine:{name}")
    images, order = source.images("train"), [torch.arange(30)]
    generator = torch.Generator().manual_seed(0)
    (first, _), (second, _) = (next(images.batches(order, generator)) for _ in range(2))
    assert not torch.equal(first, second)
    if name == "random_images":  # nearly half of the images are in the other of two states
        assert 5 < int((first != second).flatten(1).any(1).sum()) < 25
    assert source.fingerprint() == load_source(f"data_of_mine:{name}").fingerprint()
    assert before == streams()


@pytest.mark.parametrize(
    ("name", "message"),
    [("changing", r"train\[7\] is uint8"), ("failing", r"train\[4\] gives no")],
)
def test_bad_items_beyond_memory_are_refused_in_a_line(name: str, message: str) -> None:
    with refused_in_a_line(message):
        load_source(f"data_of_mine:{name}", memory_limit=10)


def config(**settings: object) -> TrainingConfig:
    plain = {"flip": False, "meta_size": 6, "epochs": 2, "batch_size": 12, **settings}
    return TrainingConfig("data_of_mine:table", "data_of_mine:net", LearnedConfig(), **plain)


def test_features_are_normalized_and_train() -> None:
    source = load_source("data_of_mine:table")
    data = prepare_data(config(), source, "cpu")
    x, _ = next(data.train.batches([torch.arange(len(data.train))]))
    shown = data.transform.evaluate(x).numpy()
    raw = x.numpy().astype(np.float64)
    np.testing.assert_allclose(shown, (raw - raw.mean(0)) / raw.std(0), atol=1e-5)
    assert fit(config(), source=source).parameters == 15


@pytest.mark.parametrize("setting", [{"flip": True}, {"translate": 1}, {"normalisation": "unit"}])
def test_what_only_images_take_is_refused(setting: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="has no use with data_of_mine:table"):
        prepare_data(config(**setting), load_source("data_of_mine:table"), "cpu")


def test_networks_for_images_are_refused() -> None:
    source = load_source("data_of_mine:table")
    with pytest.raises(ValueError, match=r"cnn is for images, and an item of .* is \[4\]"):
        fit(TrainingConfig("x", "cnn", LearnedConfig(), flip=False, meta_size=6), source=source)


def test_a_constant_feature_is_kept() -> None:
    assert np.full(60, 0.1).std() > 0
    assert load_source("data_of_mine:constant").train_data[0, 2] == np.float32(0.1)
