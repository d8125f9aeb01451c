from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from core.policies import NoMix, ScoresConfig
from core.training.config import TrainingConfig
from hpo.analyses.labels.comparison import (
    Method,
    label_comparison,
    label_quality,
    require_cleanlab,
    suspicion,
)
from hpo.cells.cell import Cell
from hpo.cells.record import CellRecord
from hpo.report.outcome import Extra
from hpo.study.rows import Row, StudyRow
from tests.support.numbered_images import BASE, WRONG, numbered, numbered_outcome, read
from tests.support.results import result

pytest.importorskip("cleanlab", reason="needs cleanlab (pip install '.[label-errors]')")

METHODS = [Method("scores", "Scores", ("scores",)), Method("folds", "Folds", ("f0", "f1", "f2"))]


def predicted(number: int) -> list[float]:
    """Made up, another one for each image; three classes."""
    first, second = (number + 1) / 100, (number % 7 + 1) / 30
    return [first, second, 1 - first - second]


def record(method: str, training: TrainingConfig, **values: Any) -> CellRecord:
    values = {"test_error": 1.0, "train_seconds": 2.0, "samples_seen": 100, **values}
    return CellRecord(Cell(method, training), "finished", result(**values), None, {})


def fold(method: str, **changes: Any) -> CellRecord:
    training = replace(BASE, **changes)
    held_out = read(training, "held_out")
    return record(method, training, probabilities=[predicted(number) for number in held_out])


# --------------------------------------------------------------------------------- one seed's data


@pytest.mark.parametrize(
    "trainings",
    [
        [{"folds": 3, "fold": fold} for fold in (0, 1, 2)],
        [{"folds": 3, "fold": fold} for fold in (2, 0, 1)],
        [{"folds": 2, "fold": fold, "meta_in_training": True} for fold in (0, 1)],
        [{"folds": 1, "meta_in_training": True}],
    ],
    ids=["folds", "in another order", "with meta images", "meta images alone"],
)
def test_each_image_is_judged_by_the_training_that_did_not_see_it(
    trainings: list[dict[str, Any]],
) -> None:
    judged = suspicion([fold("f", **training) for training in trainings], numbered())
    assert judged is not None
    every = read(BASE)
    labels, quality = judged
    assert labels.indices.tolist() == list(every)
    expected = [predicted(number)[label] for number, label in every.items()]
    np.testing.assert_allclose(quality, expected)


def test_scores_are_those_of_the_training_images_without_the_meta_images() -> None:
    values = np.random.default_rng(0).normal(size=42)
    for training, count in ((BASE, 30), (replace(BASE, meta_in_training=True), 42)):
        judged = suspicion([record("scores", training, scores=[*values[:count]])], numbered())
        assert judged is not None
        labels, quality = judged
        assert labels.indices.tolist() == list(read(BASE))
        assert quality.tolist() == values[:30].tolist()


def test_what_is_not_whole_gives_nothing() -> None:
    assert suspicion([fold("f", folds=3, fold=0), fold("f", folds=3, fold=1)], numbered()) is None
    assert suspicion([fold("f", folds=3, fold=0)] * 3, numbered()) is None
    assert suspicion([record("none", BASE)], numbered()) is None


def test_cleanlabs_label_quality_is_the_probability_of_the_given_label() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]])
    given = np.array([0, 1, 2])
    np.testing.assert_allclose(label_quality(given, probabilities), [0.7, 0.1, 0.4])
    rounded = probabilities * np.array([[1.0001], [0.9999], [1.0]])
    np.testing.assert_allclose(label_quality(given, rounded), [0.7, 0.1, 0.4])
    # Classes that nobody was given are fine.
    np.testing.assert_allclose(label_quality(np.array([1, 1, 1]), probabilities), [0.2, 0.1, 0.3])


def test_without_cleanlab_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    require_cleanlab()
    monkeypatch.setitem(sys.modules, "cleanlab.rank", None)
    with pytest.raises(ImportError, match=r"cleanlab is not installed.*label-errors"):
        label_quality(np.array([0]), np.array([[0.5, 0.5]]))


# -------------------------------------------------------------------------------------- the report


def with_misses(method: str, seed: int, misses: int) -> CellRecord:
    """Scores that put this many right labels, and then all others that are wrong, lowest."""
    training = replace(BASE, seed=seed, policy=ScoresConfig())
    wrong = [label != number % 3 for number, label in read(training).items()]
    assert sum(wrong) == WRONG
    order = np.argsort(np.logical_not(wrong), kind="stable")  # the wrong ones first
    order = [*order[WRONG : WRONG + misses], *order[:WRONG], *order[WRONG + misses :]]
    scores = np.empty(30)
    scores[order] = np.arange(30)
    return record(method, training, scores=scores.tolist(), train_seconds=8.0)


def report(
    output: Path,
    methods: Sequence[Method],
    records: Sequence[CellRecord],
    base: TrainingConfig = BASE,
) -> Extra:
    rows = [
        StudyRow(Row(key, key, "", "none" if key == "none" else "extra"), NoMix())
        for key in sorted({record.cell.method for record in records})
    ]
    return label_comparison(methods)(numbered_outcome(output, records, rows, base))


def cells(markdown: str, label: str) -> list[list[str]]:
    """Returns the other cells of each line of a table whose first cell this is."""
    table = [[cell.strip() for cell in line.split("|")] for line in markdown.splitlines()]
    return [line[2:-1] for line in table if len(line) > 2 and line[1] == label]


def test_differences_are_paired_over_seeds_and_adjusted_together(tmp_path: Path) -> None:
    """With m right labels before the 12 wrong ones, m · 12 of 12 · 18 pairs are the wrong way
    round and 12 − m of the lowest 12 are wrong."""
    misses = {"a": (1, 0, 2), "b": (3, 1, 5), "c": (1, 1, 6)}
    methods = [Method(key, key.upper(), (key,)) for key in misses]
    records = [
        with_misses(key, seed, count)
        for key, counts in misses.items()
        for seed, count in enumerate(counts)
    ]
    records += [record("none", replace(BASE, seed=seed), train_seconds=4.0) for seed in range(3)]
    extra = report(tmp_path, methods, records)
    names = [f"study-{name}" for name in ("comparison.csv", "differences.csv", "comparison.png")]
    assert [path.name for path in extra.files] == names

    table = pd.read_csv(extra.files[0]).set_index(["method", "seed"])
    for key, counts in misses.items():
        for seed, count in enumerate(counts):
            line = table.loc[(key, seed)]
            assert line["auc"] == pytest.approx(1 - count / 18)
            assert line["precision_at_wrong"] == pytest.approx(1 - count / 12)
    differences = pd.read_csv(extra.files[1]).set_index(["other", "measure"])
    assert (differences["method"] == "a").all()
    p_values = {}
    for other in "bc":
        for measure, per in (("auc", 18), ("precision_at_wrong", 12)):
            line = differences.loc[(other, measure)]
            a, b = (1 - np.array(misses[key]) / per for key in ("a", other))
            assert line["difference"] == pytest.approx(np.mean(a - b))
            interval = stats.t.interval(0.95, 2, np.mean(a - b), stats.sem(a - b))
            assert (line["low"], line["high"]) == pytest.approx(interval)
            assert line["p_value"] == pytest.approx(stats.ttest_rel(a, b).pvalue)
            p_values[other, measure] = line["p_value"]
    # Of four, and the two measures of one other method are proportional here: p of b four times
    # and once more, p of c at least that.
    assert p_values["b", "auc"] < p_values["c", "auc"]
    for measure in ("auc", "precision_at_wrong"):
        p_holm = differences["p_holm"]
        assert p_holm["b", measure] == pytest.approx(4 * p_values["b", "auc"], rel=1e-6)
        expected = max(4 * p_values["b", "auc"], min(1, 2 * p_values["c", "auc"]))
        assert p_holm["c", measure] == pytest.approx(expected, rel=1e-6)

    (line,) = cells(extra.markdown, "A")
    assert line[:4] == ["1", "2.00×", "1.00×", "3"]
    _, (difference, *_) = cells(extra.markdown, "B")
    assert difference.startswith("+0.111 [")
    assert "12 of 30 training labels are wrong." in extra.markdown


def test_trainings_and_cost_of_cross_validation_are_added_up(tmp_path: Path) -> None:
    folds = [fold(f"f{i}", folds=3, fold=i) for i in range(3)]
    none = record("none", BASE, samples_seen=200)
    extra = report(tmp_path, METHODS, [with_misses("scores", 0, 1), *folds, none])
    table = pd.read_csv(extra.files[0]).set_index("method")
    assert table["trainings"].to_dict() == {"scores": 1, "folds": 3}
    assert table["train_seconds"].to_dict() == {"scores": 8.0, "folds": 6.0}
    assert table["samples_seen"].to_dict() == {"scores": 100, "folds": 300}
    first, second = cells(extra.markdown, "Folds")
    assert first[:4] == ["3", "3.00×", "1.50×", "1"]
    # One pair says nothing about the spread.
    assert second[1::2] == ["–", "–"]
    assert not any("[" in cell for cell in second)


def test_seeds_with_a_missing_training_are_left_out(tmp_path: Path) -> None:
    folds = [fold(f"f{i}", folds=3, fold=i, seed=s) for i in range(3) for s in (0, 1)]
    diverged = replace(folds.pop(), status="diverged")
    records = [*folds, diverged, *(with_misses("scores", seed, 2) for seed in (0, 1, 2))]
    table = pd.read_csv(report(tmp_path, METHODS, records).files[0])
    assert table.groupby("method")["seed"].apply(list).to_dict() == {
        "scores": [0, 1, 2],
        "folds": [0],
    }
    differences = pd.read_csv(tmp_path / "study-differences.csv")
    assert differences["n"].tolist() == [1, 1]


def test_the_first_method_alone_and_none_at_all(tmp_path: Path) -> None:
    extra = report(tmp_path, METHODS, [with_misses("scores", 0, 0)])
    assert pd.read_csv(extra.files[0])["auc"].tolist() == [1.0]
    assert "Scores −" not in extra.markdown
    clean = replace(BASE, label_noise=0.0)
    records = [record("scores", clean, scores=[0.0] * 30)]
    extra = report(tmp_path / "clean", METHODS, records, clean)
    assert "No labels were made wrong" in extra.markdown
    assert extra.files == []
