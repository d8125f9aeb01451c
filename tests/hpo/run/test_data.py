"""A study looks at its data once, says three lines, and keeps all that it saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.data import source_from_arrays
from core.policies import NoMix
from core.training.config import TrainingConfig
from hpo.run import data
from hpo.search.protocol import SearchSettings
from hpo.study.plan import Plan
from hpo.study.rows import Row, StudyRow


def test_it_looks_once_at_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    looked: list[bool] = []
    look = data.look

    def counted(source: Any, *, near: bool) -> Any:
        looked.append(near)
        return look(source, near=near)

    monkeypatch.setattr(data, "look", counted)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 1, 4, 4), dtype=np.uint8)
    pixels[7] = pixels[2]
    base = TrainingConfig("mine", "cnn", NoMix(), meta_size=4)
    rows = [StudyRow(Row("none", "None", "", "none"), NoMix())]
    plan = Plan("study", rows, ["mine"], range(1), {"mine": base}, SearchSettings(trials=3))
    file = tmp_path / "study-data.json"

    def at(pixels: np.ndarray, near: bool = False) -> list[str]:
        said.clear()
        source = source_from_arrays("mine", pixels, [0, 1] * 6, pixels[:2], [0, 1])
        data.look_at_data(file, plan, {("mine", None): source}, near=near, say=said.append)
        return list(said)

    first = at(pixels)
    assert first[0] == "mine: 2 classes, 12 training and 2 test images"
    assert first[1] == "mine: items a class: training 6 each, test 1 each"
    assert first[2].startswith("mine: of the training items 1 repeat another one, 2 stand among")
    [entry] = json.loads(file.read_text())
    assert (entry["equal"], entry["in_test"]) == ([[2, 7]], [[0, 0], [1, 1]])
    assert at(pixels) == first
    assert looked == [False]
    assert at(pixels, near=True)[:2] == first[:2]
    assert at(pixels) == at(pixels, near=True)
    assert looked == [False, True]
    pixels[0] += 1
    assert at(pixels)[0] == first[0]
    file.write_text("[{}]")  # damaged: it is looked for again
    at(pixels)
    assert looked == [False, True, False, False]
