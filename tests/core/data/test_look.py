"""What stands in a data set is seen before the first training: equal items, near ones, files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from core.data import Source, load_source, source_from_arrays
from core.data.look import look
from core.policies import NoMix
from core.training.config import TrainingConfig
from core.training.prepared_data import draw_splits


def source_of(train: list[int], labels: list[int], test: list[int]) -> Source:
    """Items that are equal where their numbers are."""

    def items(numbers: list[int]) -> np.ndarray:
        pixels = np.zeros((len(numbers), 1, 2, 2), np.uint8)
        pixels[:, 0, 0, 0] = numbers
        return pixels

    return source_from_arrays(
        "mine", items(train), labels, items(test), [0] * len(test), ["a", "b"]
    )


@pytest.mark.parametrize("features", [False, True])
def test_equal_items_are_seen_in_and_across_parts(features: bool) -> None:
    source = source_of([1, 2, 2, 3, 3, 4, 2], [0, 1, 1, 0, 1, 0, 1], [9, 3, 3, 4])
    if features:
        as_floats = (part.astype(np.float32) for part in (source.train_data, source.test_data))
        train, test = as_floats
        source = replace(source, train_data=train, test_data=test)
    seen = look(source)
    assert seen.equal == [[1, 2, 6], [3, 4]]
    assert seen.in_test == [[3, 1], [4, 1], [5, 3]]
    assert seen.contradictory == [3, 4]
    assert seen.near is None
    assert seen.lines(train=[1, 3, 5], meta=[0, 2, 6]) == [
        "mine: items a class: training 3 (a) to 4 (b), test 0 (b) to 4 (a)",
        "mine: of the training items 3 repeat another one, 3 stand among the test items too "
        "(--dedup leaves them out), 2 are for meta-validation in seed 0 and stand in its training "
        "items too, 2 have an equal one with another label",
    ]


def test_different_items_are_said_to_be_different() -> None:
    seen = look(source_of([1, 2, 3, 4], [0, 1, 0, 1], [5]))
    assert seen.lines()[1] == "mine: no two items are equal"


def test_what_stands_in_test_is_left_out_of_training_and_meta_validation() -> None:
    numbers = list(range(40))
    source = source_of(numbers, [i % 2 for i in numbers], [0, 3, 8, 8, 21, 99])
    config = TrainingConfig("mine", "cnn", NoMix(), meta_size=6, dedup=True)
    splits = draw_splits(config, source)
    drawn = sorted([*splits.train.tolist(), *splits.meta_validation.tolist()])
    assert drawn == [i for i in numbers if i not in (0, 3, 8, 21)]
    both = draw_splits(replace(config, dedup=False), source)
    assert len(both.train) + len(both.meta_validation) == 40


def pictures(count: int) -> np.ndarray:
    """Smooth random pictures, [N, 1, 32, 32]."""
    coarse = torch.randn(count, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse, 32, mode="bicubic")
    return (fine.sigmoid() * 255).to(torch.uint8).numpy()


def test_near_duplicates_are_seen_and_others_are_not() -> None:
    x = pictures(12)
    brighter = (x[3].astype(float) * 0.9 + 20).astype(np.uint8)
    noisy = np.clip(x[5] + np.random.default_rng(0).normal(0, 3, x[5].shape), 0, 255)
    train = np.concatenate([x[:10], brighter[None]])
    test = np.stack([noisy.astype(np.uint8), x[11], x[2]])  # near, new, equal
    source = source_from_arrays("mine", train, [0, 1] * 5 + [0], test, [0, 1, 0])
    seen = look(source, near=True)
    assert seen.near == [["train", 3, "train", 10], ["test", 0, "train", 5]]
    assert seen.in_test == [[2, 2]]
    assert "3 have a near duplicate" in seen.lines()[1]
    features = replace(source, train_data=train.astype(np.float32))
    with pytest.raises(ValueError, match="mine holds features; near duplicates"):
        look(features, near=True)


@pytest.mark.parametrize("limit", [{}, {"memory_limit": 0}])
def test_files_are_looked_at_in_memory_and_streamed(tmp_path: Path, limit: dict[str, Any]) -> None:
    x = pictures(5)[:, 0]
    for part, place, item in (
        ("train", "ant/0.png", 0), ("train", "ant/1.png", 1), ("train", "bee/2.png", 1),
        ("train", "bee/3.png", 2), ("test", "ant/4.png", 2),
    ):  # fmt: skip
        path = tmp_path / part / place
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        if place == "ant/0.png":
            exif[274] = 3
        Image.fromarray(x[item]).save(path, exif=exif)
    (tmp_path / "train" / "ant" / "notes.txt").write_text("mine")
    seen = look(load_source(f"folder:{tmp_path}", **limit))
    assert (seen.equal, seen.in_test, seen.contradictory) == ([[1, 2]], [[3, 0]], [1, 2])
    assert seen.turned == ["train/ant/0.png"]
    assert seen.passed_over == ["1 .txt in train/ant"]
    assert "1 files turned" in seen.lines()[0]
