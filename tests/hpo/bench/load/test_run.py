"""The load's own part: its flags, and what it finds in folders and stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpo.bench.load import run
from hpo.bench.load.driver import ROWS, STUDY
from hpo.bench.load.run import parse
from hpo.run import prepare


def test_studies_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "default_workers", lambda _: 6)
    assert parse("", []).workers == 6
    assert parse("", ["--concurrent", "2"]).workers == 3
    assert parse("", ["--concurrent", "8"]).workers == 1
    assert parse("", ["--concurrent", "8", "--workers", "2"]).workers == 2


def test_every_study_has_a_folder(tmp_path: Path) -> None:
    options = parse("", ["--concurrent", "2", "--output", str(tmp_path)])
    assert options.folders == [tmp_path / "load-1", tmp_path / "load-2"]


@pytest.mark.parametrize("flag", ["--cells", "--concurrent", "--workers", "--epochs"])
def test_nothing_to_do_is_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("", [flag, "0"])
    assert f"{flag} must be at least 1, got 0" in capsys.readouterr().err


def test_the_cells_are_tiny_and_as_many_as_asked_for(tmp_path: Path) -> None:
    from hpo.command_line import parse as parse_study

    options = parse("", ["--cells", "7", "--epochs", "3", "--output", str(tmp_path)])
    study = parse_study(STUDY, "", options.flags(tmp_path, 7))
    plan, _ = prepare(STUDY, ROWS, study)
    cells = plan.fixed_cells()
    assert len({cell.id for cell in cells}) == len(cells) == plan.size == 7
    assert {(c.training.epochs, c.training.train_size) for c in cells} == {(3, 20)}
