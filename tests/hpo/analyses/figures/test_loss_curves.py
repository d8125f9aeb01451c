from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpo.analyses.figures.loss_curves import loss_curves, loss_figure, loss_table
from hpo.report.outcome import Outcome
from hpo.study.named_rows import METAMIXUP, MIXUP, NONE

ROWS = [MIXUP, METAMIXUP, NONE]


def history(*losses: float, least: float = 0.5) -> dict[str, Any]:
    return {
        "history": [
            {"epoch": e, "train_loss": x, "label_entropy": least, "unmixed_loss": x / 4}
            for e, x in enumerate(losses, 1)
        ]
    }


@pytest.fixture
def outcome(make_outcome: Callable[..., Outcome]) -> Outcome:
    return make_outcome(
        ROWS,
        {
            "beta-1": [history(2.0, 1.0), history(4.0, 1.2), history(3.0, 1.1)],
            "metamixup": [history(2.0, 0.6, least=0.2), history(2.0, 0.8, 9.0, least=0.2)],
        },
        ["digits", "mnist"],
    )


def test_means_by_epoch(outcome: Outcome) -> None:
    frame = loss_table(outcome).set_index(["dataset", "method", "quantity", "epoch"]).sort_index()
    mean = frame["mean"]
    assert mean["mnist", "beta-1", "train_loss"].tolist() == pytest.approx([3.0, 1.1])
    assert mean["mnist", "beta-1", "excess"].tolist() == pytest.approx([2.5, 0.6])
    assert mean["mnist", "beta-1", "unmixed_loss"].tolist() == pytest.approx([0.75, 0.275])
    # The third epoch is one seed's alone.
    assert mean["digits", "metamixup", "train_loss"].tolist() == pytest.approx([2.0, 0.7])
    assert "none" not in mean.index.get_level_values("method")


def test_the_figure_shows_what_the_table_says(outcome: Outcome) -> None:
    figure = loss_figure(loss_table(outcome))
    assert len(figure.axes) == 2 * 3
    mixed, excess, unmixed = figure.axes[:3]
    for ax, expected in ((mixed, [3.0, 1.1]), (excess, [2.5, 0.6]), (unmixed, [0.75, 0.275])):
        assert list(ax.lines[0].get_ydata()) == pytest.approx(expected)
        assert len(ax.lines) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "MixUp (α = 1)", "MetaMixUp (default)",
    ]  # fmt: skip


def test_the_text_says_that_the_losses_are_of_different_data(outcome: Outcome) -> None:
    """In the last epoch 0.6 − 1.0 and 9.0 − 1.2; above the least 0.4 − 0.5 and 8.8 − 0.7."""
    extra = loss_curves(outcome)
    claim = (
        "- MetaMixUp (default), a lower loss than MixUp (α = 1): on mixed images, as the paper has "
        "it, is not supported (+3.700 ["
    )
    assert claim in extra.markdown
    assert "above the least possible, is not supported (+4.000 [" in extra.markdown
    assert "different data" in extra.markdown
    assert "| No MixUp            |" in extra.markdown
    assert all(Path(path).exists() for path in extra.files)


@pytest.mark.parametrize("trained", ["beta-1", "metamixup"])
def test_nothing_is_claimed_of_a_row_that_was_not_trained(
    make_outcome: Callable[..., Outcome], trained: str
) -> None:
    text = loss_curves(make_outcome(ROWS, {trained: [history(2.0, 1.0)]})).markdown
    assert "| MetaMixUp (default) |" in text
    assert "a lower loss than" not in text


def test_without_an_analysis_the_mixed_loss_is_still_there(
    make_outcome: Callable[..., Outcome],
) -> None:
    frame = loss_table(make_outcome([MIXUP], {"beta-1": [{}]}))
    by_quantity = frame.groupby("quantity")["mean"]
    assert by_quantity.get_group("train_loss").notna().all()
    assert by_quantity.get_group("unmixed_loss").isna().all()
    loss_figure(frame)


def test_a_lower_loss_is_what_the_paper_claims(make_outcome: Callable[..., Outcome]) -> None:
    """Lower by 1 in each seed, or higher by as much."""
    low, high = ([history(x, least=0.2)] for x in (1.0, 2.0))
    low += [history(1.01, least=0.2), history(1.02, least=0.2)]
    high += [history(2.0, least=0.2), history(2.0, least=0.2)]
    given = {"beta-1": high, "metamixup": low}
    assert ", as the paper has it, holds (" in loss_curves(make_outcome(ROWS, given)).markdown
    given = {"beta-1": low, "metamixup": high}
    text = loss_curves(make_outcome(ROWS, given)).markdown
    assert ", as the paper has it, is contradicted (" in text
