from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from core.data import load_source
from core.data.decoding import Decoder
from core.data.sources import own_source
from core.policies import NoMix, ScoresConfig
from core.training.config import TrainingConfig
from hpo.analyses.labels.contact_sheet import RIGHT, WRONG
from hpo.analyses.labels.errors import file_name, label_errors, suspects, suspects_sheet
from hpo.cells.cell import Cell
from hpo.cells.record import CellRecord
from hpo.study.rows import Row, StudyRow
from tests.support.numbered_images import BASE, NAMES, numbered, numbered_outcome, read
from tests.support.results import result

SCORES = StudyRow(Row("scores", "Scores", "", "learned"), ScoresConfig())
PLACEBO = StudyRow(Row("scores-placebo", "Random", "", "placebo"), ScoresConfig(permute=True))
NONE = StudyRow(Row("none", "None", "", "none"), NoMix())


def record(
    row: StudyRow, scores: Sequence[float] | None, base: TrainingConfig = BASE, seed: int = 0
) -> CellRecord:
    assert row.policy is not None
    training = replace(base, policy=row.policy, seed=seed, **row.training)
    given = result(scores=None if scores is None else list(scores), test_error=1.0)
    return CellRecord(Cell(row.row.key, training), "finished", given, None, {})


def by_number(numbers: Sequence[int]) -> list[float]:
    """Scores that are lower the higher an image's number is."""
    return [-float(number) for number in numbers]


def trained_on(base: TrainingConfig, seed: int = 0) -> list[int]:
    return list(read(replace(base, seed=seed)))


def test_the_list_names_the_lowest_scored_images() -> None:
    numbers = trained_on(BASE)
    table = suspects(record(SCORES, by_number(numbers)), numbered(), 5)
    highest = sorted(numbers, reverse=True)[:5]
    assert table["index"].tolist() == highest
    assert table["rank"].tolist() == [1, 2, 3, 4, 5]
    assert table["seed"].tolist() == [0] * 5
    assert table["score"].tolist() == [-n for n in highest]
    assert table["true_label"].tolist() == [n % 3 for n in highest]
    assert table["true_class"].tolist() == [NAMES[n % 3] for n in highest]
    assert table["given_class"].tolist() == [NAMES[label] for label in table["given_label"]]
    assert table["wrong"].tolist() == (table["given_label"] != table["true_label"]).tolist()
    everything = suspects(record(SCORES, by_number(numbers)), numbered(), 30)
    assert everything["wrong"].sum() == 12
    assert sorted(everything["index"]) == sorted(numbers)
    assert "file" not in table


def test_without_label_noise_nobody_knows_what_is_wrong() -> None:
    clean = replace(BASE, label_noise=0.0)
    numbers = trained_on(clean)
    table = suspects(record(SCORES, by_number(numbers), clean), numbered(), 3)
    expected = ["seed", "rank", "index", "given_label", "given_class", "score"]
    assert list(table.columns) == expected
    assert table["given_label"].tolist() == [n % 3 for n in table["index"]]


def test_images_that_meta_in_training_adds_are_listed() -> None:
    row = replace(SCORES, training={"meta_in_training": True})
    numbers = trained_on(replace(BASE, meta_in_training=True))
    scores = [float(i != 40) for i in range(42)]
    table = suspects(record(row, scores), numbered(), 1)
    assert table["index"].tolist() == [numbers[40]]
    assert not table["wrong"].any()


def test_files_of_a_study_with_wrong_labels(tmp_path: Path) -> None:
    numbers = {seed: trained_on(BASE, seed) for seed in (0, 1)}
    records = [
        record(PLACEBO, [0.0] * 30),
        *(record(SCORES, by_number(numbers[seed]), seed=seed) for seed in (1, 0)),
        record(NONE, None),
    ]
    extra = label_errors(numbered_outcome(tmp_path, records, (NONE, SCORES, PLACEBO)))
    stem = "study-scores-numbered-suspects"
    names = [f"{stem}.csv", f"{stem}.png", "study-label-errors.csv"]
    assert [path.name for path in extra.files] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    table = pd.read_csv(tmp_path / f"{stem}.csv")
    assert table["seed"].tolist() == [0] * 3 + [1] * 3  # a tenth of 30 each
    for seed in (0, 1):
        shown = table[table["seed"] == seed]
        assert shown["index"].tolist() == sorted(numbers[seed], reverse=True)[:3]

    measured = pd.read_csv(tmp_path / "study-label-errors.csv")
    assert measured["method"].tolist() == ["scores", "scores", "scores-placebo"]
    assert measured["seed"].tolist() == [0, 1, 0]
    assert (measured["wrong"] == 12).all()
    assert (measured["total"] == 30).all()
    placebo = measured.iloc[2]
    assert (placebo["auc"], placebo["precision_at_wrong"]) == (0.5, pytest.approx(0.4))
    lines = [line for line in extra.markdown.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + 2
    cells = [cell.strip() for cell in lines[3].split("|")[1:-1]]
    assert cells == ["Random", "40 % of 30", "1", "0.500", "0.400", "–"]
    assert f"`{stem}.csv`" in extra.markdown
    assert extra.metrics.keys() == {("scores", "numbered"), ("scores-placebo", "numbered")}
    mean = measured.loc[measured["method"] == "scores", "auc"].mean()
    assert extra.metrics["scores", "numbered"]["label_errors_auc"] == pytest.approx(mean)
    random = extra.metrics["scores-placebo", "numbered"]
    names = ["label_errors_auc", "label_errors_precision_at_wrong"]  # not of a hundred in 30
    assert random == pytest.approx(dict(zip(names, [0.5, 0.4], strict=True)))


def test_the_sheet_shows_the_images_with_what_is_known() -> None:
    table = suspects(record(SCORES, by_number(trained_on(BASE))), numbered(), 30)
    assert set(table["wrong"]) == {True, False}
    axes = suspects_sheet(table, numbered(), "").axes
    for ax, wrong, number in zip(axes, table["wrong"], table["index"], strict=False):
        assert (np.asarray(ax.images[0].get_array()) == number).all()
        assert ax.xaxis.label.get_color() == (WRONG if wrong else RIGHT)
    unknown = table.drop(columns=["true_label", "true_class", "wrong"])
    assert suspects_sheet(unknown, numbered(), "").axes[0].get_xlabel().count("\n") == 0


def test_a_clean_study_lists_and_measures_nothing(tmp_path: Path) -> None:
    clean = replace(BASE, label_noise=0.0)
    one = record(SCORES, by_number(trained_on(clean)), clean)
    extra = label_errors(numbered_outcome(tmp_path, [one], [SCORES], clean))
    assert [path.suffix for path in extra.files] == [".csv", ".png"]
    assert "|" not in extra.markdown


@pytest.mark.parametrize("x", [np.ones((60, 4)), np.ones((60, 4, 8, 8), np.uint8)])
def test_what_is_no_picture_is_listed_alone(x: np.ndarray, tmp_path: Path) -> None:
    """Features, and images of other bands than a screen has."""
    clean = replace(BASE, label_noise=0.0)
    source = own_source("numbered", ((x, np.arange(60) % 3), (x, np.arange(60) % 3)))
    one = record(SCORES, by_number(range(30)), clean)
    extra = label_errors(numbered_outcome(tmp_path, [one], [SCORES], clean, source))
    assert [path.suffix for path in extra.files] == [".csv"]
    assert len(pd.read_csv(extra.files[0])) == 3
    assert extra.markdown.endswith(
        "-suspects.csv`, the lowest-scored training images of each seed."
    )


def test_a_study_without_scores_says_nothing(tmp_path: Path) -> None:
    unfinished = replace(record(SCORES, [1.0]), status="diverged")
    extra = label_errors(
        numbered_outcome(tmp_path, [record(NONE, None), unfinished], (NONE, SCORES))
    )
    assert (extra.markdown, extra.files) == ("", [])
    assert not list(tmp_path.iterdir())


def test_scores_of_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="has 29 scores for 30 training images"):
        suspects(record(SCORES, [0.0] * 29), numbered(), 2)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_folder_tells_its_files_and_reads_only_what_it_shows(
    streamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("train", "test"):
        for number in range(240):
            folder = tmp_path / "images" / part / f"c{number % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), number, np.uint8)).save(folder / f"{number:03d}.png")
    name = f"folder:{tmp_path / 'images'}"
    source = load_source(name, **({"memory_limit": 0} if streamed else {}))
    read: list[str] = []
    decode: Callable[..., np.ndarray] = Decoder.__call__

    def noted(self: Decoder, path: str, draws: Any = None) -> np.ndarray:
        read.append(path)
        return decode(self, path, draws)

    monkeypatch.setattr(Decoder, "__call__", noted)
    base = replace(BASE, dataset=name, train_size=None)
    scores = np.random.default_rng(0).normal(size=228).tolist()
    one = record(SCORES, scores, base)
    extra = label_errors(numbered_outcome(tmp_path, [one], [SCORES], base, source))
    table = pd.read_csv(extra.files[0])
    assert len(table) == 22
    for index, file, label in zip(table["index"], table["file"], table["true_label"], strict=True):
        # Files are sorted within their class: the index counts 80 images of each.
        assert file == f"train/c{label}/{3 * (index % 80) + label:03d}.png"
    assert len(read) == len(set(read)) == (64 if streamed else 0)
    image = suspects_sheet(table, source, "").axes[0].images[0].get_array()
    assert np.asarray(image)[0, 0, 0] == int(Path(table["file"][0]).stem)


def test_names_of_files() -> None:
    assert file_name("fashion_mnist") == "fashion_mnist"
    one, other = file_name("folder:/data/my pets"), file_name("folder:/old/my pets")
    assert one.startswith("my_pets-")
    assert other.startswith("my_pets-")
    assert one != other
    assert "/" not in one
