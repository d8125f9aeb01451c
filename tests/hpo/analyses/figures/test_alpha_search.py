"""What searches for α found, from hand-made records."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest

from core.policies import Beta, Fixed, NoMix
from hpo.analyses.figures.alpha_search import alpha_search, curve_figure
from hpo.cells.record import CellRecord
from hpo.report.outcome import Outcome
from hpo.study import presets
from hpo.study.named_rows import beta, fixed
from hpo.study.variants import longer, stopped, with_meta_images
from studies.alpha_search import rows

Make = Callable[..., CellRecord]


@pytest.fixture
def outcome(make_record: Make, outcome_of: Callable[..., Outcome]) -> Outcome:
    trained = {
        "none": (NoMix(), 8.0, 9.0),
        "beta-0.5": (Beta(0.5), 6.0, 5.0),
        "beta-1": (Beta(1.0), 7.0, 8.0),
        "beta-search": (Beta(0.8), 6.0, 7.0),
        "beta-search-3": (Beta(0.0), 9.0, 9.0),
        "fixed-0.3": (Fixed(0.3), 1.0, 1.0),  # it has no α
    }
    records = [
        make_record(key, seed, dataset=dataset, policy=policy, test_error=error)
        for dataset in ("digits", "mnist")
        for key, (policy, *errors) in trained.items()
        for seed, error in enumerate(errors)
        if dataset == "digits" or "search" not in key
    ]
    return outcome_of([*rows(), fixed(0.3)], records, ["digits", "mnist"])


def test_each_search_is_set_beside_the_lowest_error_of_a_constant(outcome: Outcome) -> None:
    extra = alpha_search(outcome)
    csv, picture = extra.files
    frame = pd.read_csv(csv)
    here = frame[frame["dataset"] == "digits"]
    assert list(here["method"]) == ["none", "beta-0.5", "beta-1", "beta-search-3", "beta-search"]
    assert list(here["alpha"]) == [0.0, 0.5, 1.0, 0.0, 0.8]
    assert list(here["above_best"]) == [3.0, 0.0, 2.0, 3.5, 1.0]
    assert list(here["searched"]) == [False] * 3 + [True] * 2
    assert picture.stat().st_size > 10_000
    assert "digits: 2 searches ended between α = 0 and 0.8" in extra.markdown
    assert "2.25 points more" in extra.markdown  # of 3.5 and 1
    assert "at worst 3.50" in extra.markdown
    assert "mnist" not in extra.markdown  # no search has ended there


def test_what_also_trains_on_the_images_that_choose_is_no_search(
    make_record: Make, outcome_of: Callable[..., Outcome]
) -> None:
    """In quick each search is there once; a row that somebody asks for stays out of the curve."""
    assert presets.rows("quick", rows()) == rows()
    more = [with_meta_images(row) for row in rows()[-2:]]
    more += [longer(beta(0.5), 3), stopped(beta(0.5))]
    trained = {"beta-0.5": Beta(0.5), "beta-search": Beta(0.8), more[0].row.key: Beta(0.9)}
    trained |= {row.row.key: Beta(0.5) for row in more[2:]}
    records = [make_record(key, policy=policy) for key, policy in trained.items()]
    extra = alpha_search(outcome_of([*rows(), *more], records))
    assert list(pd.read_csv(extra.files[0])["method"]) == ["beta-0.5", "beta-search"]
    assert "digits: 1 searches ended" in extra.markdown


def test_a_constant_that_lost_seeds_is_not_the_lowest(
    make_record: Make, outcome_of: Callable[..., Outcome]
) -> None:
    trained = {
        "beta-0.5": (Beta(0.5), 6.0, 8.0),
        "beta-1": (Beta(1.0), 5.0),
        "beta-search": (Beta(0.8), 6.0, 9.0),
    }
    records = [
        make_record(key, seed, policy=policy, test_error=error)
        for key, (policy, *errors) in trained.items()
        for seed, error in enumerate(errors)
    ]
    frame = pd.read_csv(alpha_search(outcome_of(rows(), records)).files[0])
    above = dict(zip(frame["method"], frame["above_best"], strict=True))
    assert above == {"beta-0.5": 0.0, "beta-1": -1.0, "beta-search": 0.5}


def test_nothing_is_said_where_no_search_has_ended(make_outcome: Callable[..., Outcome]) -> None:
    extra = alpha_search(make_outcome(rows()[:2], {"none": [{}], "beta-0.1": [{}]}))
    assert (extra.markdown, extra.files) == ("", [])


def test_at_the_tick_of_zero_stands_no_mixing_alone() -> None:
    lines = [
        {"dataset": "digits", "searched": searched, "alpha": alpha, "n_seeds": 2, "mean": 5.0,
         "ci_low": 4.0, "ci_high": 6.0}
        for searched, alpha in ((False, 0.0), (False, 0.01), (False, 16.0), (True, 0.0501))
    ]  # fmt: skip
    [ax] = curve_figure(pd.DataFrame(lines)).axes
    ticks = dict(zip((t.get_text() for t in ax.get_xticklabels()), ax.get_xticks(), strict=True))
    constant, searched = (bars.lines[0].get_xdata() for bars in ax.containers)
    assert [*constant] == [ticks["0"], 0.01, 16.0]
    assert ticks["0"] < 0.01
    assert [*searched] == [0.0501]
    assert ticks["16"] == 16.0
