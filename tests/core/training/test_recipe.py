"""Augmentation, optimizer and schedule of the user's own: used, resumed, refused in a line."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.data import load_source
from core.policies import NoMix
from core.training.config import TrainingConfig
from core.training.fit import fit
from core.training.network import build_network
from core.training.optimizers import build_optimizer, learning_rate
from core.training.prepared_data import prepare_data
from core.training.recipe import check_recipe
from core.training.result import Metrics
from tests.support.digit_trainings import Interrupted, interrupt, numbers

MODULE = """
import random
import numpy as np
import torch
from torchvision.transforms import v2
flip = v2.Compose([v2.RandomHorizontalFlip()])
flip_by_parts = torch.nn.Sequential(v2.RandomHorizontalFlip())
def invert(x): return 255 - x
def shuffled(x): return x[torch.randperm(len(x))]
def shuffled_by_numpy(x): return x[np.random.permutation(len(x))]
def shuffled_by_python(x): return x[random.sample(range(len(x)), len(x))]
def darker(x): return x.floor_divide_(2)
def floats(x): return x.float()
def raising(x): raise RuntimeError("no")
class Jumping(torch.nn.Module):
    def __init__(self, image_size):
        super().__init__()
        self.last = torch.nn.Linear(image_size**2, 10)
        self.last.weight.data += torch.from_numpy(np.random.randn(10, image_size**2)).float()
    def forward(self, x):
        scale = random.random() + np.random.rand() if self.training else 1.0
        return scale * self.last(x.flatten(1))
def rate(step, steps, lr): return lr * (1 - step / steps)
def negative(step): return -1.0
def adam(params, lr): return torch.optim.Adam(params, lr=lr)
def text(): return "adam"
def word(step): return "slow"
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Returns the user's file."""
    (tmp_path / "recipe_of_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))


def config(epochs: int = 1, **settings: str) -> TrainingConfig:
    names = {name: f"recipe_of_mine:{value}" for name, value in settings.items()}
    return TrainingConfig(
        "digits", names.pop("model", "digits_cnn"), NoMix(), train_size=20, meta_size=10,
        epochs=epochs, batch_size=10, flip=False, **names,
    )  # fmt: skip


def test_augmentation_is_for_training_alone() -> None:
    data = prepare_data(config(augment="invert"), load_source("digits"), "cpu")
    x, _ = next(data.train.batches([torch.arange(4)]))
    shown = data.transform.train(x, torch.Generator())
    assert torch.equal(shown, data.transform.evaluate(255 - x))


def streams() -> list[object]:
    numpy = np.random.get_state()[1]  # noqa: NPY002
    return [random.getstate(), numpy.tolist(), torch.get_rng_state().tolist()]


def streams_moved() -> None:
    torch.rand(3)
    np.random.rand(3)  # noqa: NPY002
    random.random()


@pytest.mark.parametrize("name", ["shuffled", "shuffled_by_numpy", "shuffled_by_python"])
def test_random_augmentation_follows_the_training_and_leaves_the_global_streams(name: str) -> None:
    data = prepare_data(config(augment=name), load_source("digits"), "cpu")
    x, _ = next(data.train.batches([torch.arange(10)]))
    before = streams()
    a, b, c = (data.transform.train(x, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert before == streams()


def test_a_network_that_draws_from_other_streams_than_torchs_is_fixed_by_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is initialized and in its passes; a training that goes on ends as one in one piece."""
    monkeypatch.setattr("core.training.fit.CHECKPOINT_SECONDS", 0.0)
    ours, source = config(epochs=3, model="Jumping"), load_source("digits")
    before, whole = streams(), numbers(fit(ours, source=source))
    assert before == streams()
    assert numbers(fit(replace(ours, seed=1), source=source)) != whole

    interrupt(ours, tmp_path, 2)
    random.seed(5)
    assert numbers(fit(ours, source=source, directory=tmp_path)) == whole


@pytest.mark.parametrize("around", ["autocast", "inference mode"])
def test_what_a_caller_has_switched_on_moves_no_training(around: str) -> None:
    ours, source = config(model="Jumping"), load_source("digits")
    alone = numbers(fit(ours, source=source))
    with torch.autocast("cpu") if around == "autocast" else torch.inference_mode():
        assert numbers(fit(ours, source=source)) == alone


def test_what_a_listener_draws_and_changes_moves_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.training.fit.CHECKPOINT_SECONDS", 0.0)

    def listen(metrics: Metrics) -> None:
        streams_moved()
        if metrics.pop("epoch") == 2 and not any(tmp_path.glob("went-on")):
            (tmp_path / "went-on").touch()
            raise Interrupted
        metrics.clear()

    ours, source = config(epochs=3, model="Jumping"), load_source("digits")
    whole = numbers(fit(ours, source=source))
    with pytest.raises(Interrupted):
        fit(ours, source=source, directory=tmp_path, on_epoch=listen)
    assert numbers(fit(ours, source=source, directory=tmp_path, on_epoch=listen)) == whole


@pytest.mark.parametrize("name", ["flip", "flip_by_parts", "torchvision"])
def test_transforms_of_torchvision_draw_for_each_image(name: str) -> None:
    """Named themselves, or given as objects, which draw once for all that they are called with."""
    ours = config(augment="flip" if name == "torchvision" else name)
    if name == "torchvision":
        ours = replace(ours, augment="torchvision.transforms.v2:RandomHorizontalFlip")
    data = prepare_data(ours, load_source("digits"), "cpu")
    x, _ = next(data.train.batches([torch.arange(20)]))
    shown = data.transform.train(x, torch.Generator().manual_seed(0))
    flipped = (shown == data.transform.evaluate(x.flip(-1))).flatten(1).all(1)
    assert 0 < int(flipped.sum()) < 20
    assert torch.equal(shown[~flipped], data.transform.evaluate(x[~flipped]))


def test_an_augmentation_may_write_to_its_batch() -> None:
    """Views of the same images are each augmented once."""
    data = prepare_data(config(augment="darker"), load_source("digits"), "cpu")
    x, _ = next(data.train.batches([torch.arange(4)]))
    expected = data.transform.evaluate(x // 2)
    for _ in range(2):
        assert torch.equal(data.transform.train(x, torch.Generator()), expected)


def test_optimizer_and_schedule_are_asked() -> None:
    ours = config(optimizer="adam", schedule="rate", epochs=2)
    digits = load_source("digits")
    assert isinstance(build_optimizer(ours, build_network(ours, digits)), torch.optim.Adam)
    assert learning_rate(ours, 1, 4) == ours.lr * 0.75
    assert [m["lr"] for m in fit(ours, source=digits).history] == [ours.lr, ours.lr / 2]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"augment": "floats"}, "makes torch.float32 .* of torch.uint8"),
        ({"augment": "raising"}, "fails on a batch torch.uint8"),
        ({"augment": "absent"}, "cannot be imported"),
        ({"optimizer": "text"}, "returned a str; return a torch.optim.Optimizer"),
        ({"schedule": "negative"}, "gives the rate -1.0 at step 0"),
        ({"schedule": "word"}, "gives the rate 'slow' at step 0 of 100; return a number"),
    ],
)
def test_what_fails_is_refused_in_a_line(setting: dict[str, str], message: str) -> None:
    digits, ours = load_source("digits"), config(**setting)
    with pytest.raises(ValueError, match=message):
        check_recipe(ours, digits, build_network(ours, digits))


def test_a_transform_of_torchvision_is_found_in_a_new_process(tmp_path: Path) -> None:
    (tmp_path / "crops_of_mine.py").write_text(
        "from torchvision.transforms import v2\ncrop = v2.RandomCrop(8, padding=1)\n"
    )
    script = (
        "import torch\nfrom core.data.imported import imported\n"
        "print(imported('crops_of_mine:crop')(torch.zeros(2, 1, 8, 8)).shape)"
    )
    path = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])])}
    text = subprocess.check_output([sys.executable, "-c", script], env=os.environ | path, text=True)
    assert text.strip() == "torch.Size([2, 1, 8, 8])"
