from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hpo.analyses.figures.plane import collisions, plane, plane_figure, plane_table
from hpo.report.outcome import Outcome
from hpo.study.named_rows import METAMIXUP, MIXUP


def points(*rows: tuple[float, float, int], **more: Any) -> dict[str, Any]:
    findings = {"plane": [[x, y] for x, y, _ in rows], "plane_labels": [c for *_, c in rows]}
    return {"findings": findings, **more}


APART = points((0, 0, 0), (1, 0, 0), (9, 9, 2), (9, 8, 2), test_error=3.0)
MIXED = points((0, 0, 0), (1, 0, 2), (9, 9, 2), (9, 8, 0), test_error=50.0)
HALF = points((0, 0, 0), (1, 0, 0), (9, 9, 2), (9, 8, 0), test_error=20.0)


@pytest.fixture
def outcome(make_outcome: Callable[..., Outcome]) -> Outcome:
    return make_outcome([MIXUP, METAMIXUP], {"beta-1": [MIXED, HALF], "metamixup": [APART] * 2})


def test_collisions_against_all_pairs() -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 2)), rng.integers(0, 3, 60)
    distances = np.linalg.norm(features[:, None] - features, axis=2)
    np.fill_diagonal(distances, np.inf)
    expected = 100 * np.mean(labels[distances.argmin(1)] != labels)
    assert collisions(features, labels) == pytest.approx(expected)
    assert collisions(7 * features + 3, labels) == pytest.approx(expected)


def test_images_at_one_place_collide_with_each_other() -> None:
    features = np.zeros((2, 2))
    assert collisions(features, np.array([0, 1])) == 100
    assert collisions(features, np.array([1, 1])) == 0


def test_the_picture_is_of_the_lowest_seed(outcome: Outcome) -> None:
    frame = plane_table(outcome)
    assert len(frame) == 8
    mixup = frame[frame["method"] == "beta-1"]
    assert set(mixup["seed"]) == {0}
    assert set(mixup["test_error"]) == {50.0}
    assert mixup["class_name"].tolist() == ["ant", "cow", "cow", "ant"]
    figure = plane_figure(frame)
    left, right = figure.axes
    assert left.get_title().startswith("MixUp (α = 1)\nseed 0, test error 50.0 %")
    assert left.get_ylabel() == "digits\nsecond feature"
    assert right.get_title().startswith("MetaMixUp (default)")
    assert sorted(text.get_text() for text in left.texts) == ["0", "2"]
    named = [text.get_text() for text in right.get_legend().get_texts()]
    assert named == ["0 ant", "2 cow"]
    drawn = np.concatenate([np.asarray(part.get_offsets()) for part in right.collections])
    assert sorted(map(tuple, drawn.tolist())) == [(0, 0), (1, 0), (9, 8), (9, 9)]


def test_names_do_not_lie_on_each_other(make_outcome: Callable[..., Outcome]) -> None:
    """Three classes in one place, and far from it an image that makes the panel wide."""
    piled = [(at % 2, at % 2, at // 2) for at in range(6)]
    results = [points(*piled, (100, 100, 0))]
    figure = plane_figure(plane_table(make_outcome([MIXUP], {"beta-1": results})))
    (ax,) = figure.axes
    places = np.array([text.get_position() for text in ax.texts])
    apart = np.linalg.norm(places[:, None] - places, axis=2)[np.triu_indices(3, 1)]
    assert apart.min() > 5.5
    assert np.abs(places - 0.5).max() < 15


def test_the_numbers_are_of_all_seeds(outcome: Outcome) -> None:
    """100 and 50 percent of four images collide, against none."""
    text = plane(outcome).markdown
    assert "| MixUp (α = 1)       |   2 | 75.00 ± 317.66 | 35.00 ± 190.59 |" in text
    claim = "- MetaMixUp (default), fewer collisions than MixUp (α = 1), as the paper has it: "
    assert f"{claim}is not supported (−75.00 [" in text


def test_the_claim_is_of_fewer_collisions(make_outcome: Callable[..., Outcome]) -> None:
    """Classes far from each other, in one seed with an image of another, or all in each other."""
    few = [
        points(*[(at // 7, at / 1000, (at // 7 + (at < by)) % 3) for at in range(21)])
        for by in (0, 1, 0)
    ]
    many = [points(*[(at, 0, at % 3) for at in range(21)])] * 3
    for learned, reference, said in ((few, many, "holds"), (many, few, "is contradicted")):
        outcome = make_outcome([MIXUP, METAMIXUP], {"beta-1": reference, "metamixup": learned})
        assert f"as the paper has it: {said} (" in plane(outcome).markdown


def test_without_features_it_says_so(make_outcome: Callable[..., Outcome]) -> None:
    outcome = make_outcome([MIXUP], {"beta-1": [{}]})
    with pytest.raises(ValueError, match="no finished training has features in the plane"):
        plane(outcome)
