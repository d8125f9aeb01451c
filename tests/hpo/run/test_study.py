from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.policies import Beta, LearnedConfig, NoMix
from core.training.config import TrainingConfig
from hpo import command_line
from hpo.cells.cell import Cell
from hpo.cells.record import CellRecord
from hpo.cells.store import CellStore
from hpo.cells.summary import SummaryRow
from hpo.report import preamble
from hpo.report.outcome import Extra, Outcome
from hpo.run import study as run
from hpo.run import work
from hpo.search.spaces import BETA_ALPHA
from hpo.search.strategies import Listed
from hpo.study.recipes import Searched
from hpo.study.rows import Row, StudyRow, controls

QUANTILES = (0.0, 0.5, 1.0)
TRAINING = TrainingConfig("digits", "digits_cnn", NoMix())
ROWS = [StudyRow(Row("none", "None", "", "none"), NoMix())]
TAIL = " Training images cut to a long tail, largest over smallest class {}, at least one of each."
NOISE = " {} % of the training labels of each class are wrong ({})."


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ""),
        ({"label_noise": 0.4}, NOISE.format(40, "symmetric")),
        ({"label_noise": 0.125, "label_noise_kind": "pair"}, NOISE.format(12.5, "pair")),
        ({"imbalance": 50.0}, TAIL.format(50)),
        (
            {"labels": "far/away/worse.npy#0123456789abcdef", "meta_noise": True},
            " Training labels are those of worse.npy#0123456789abcdef."
            " Meta-validation labels are as noisy as those of training.",
        ),
        (
            {"checked": "far/away/checked.npy#0123456789abcdef"},
            " Meta-validation images are of those that checked.npy#0123456789abcdef names.",
        ),
        (
            {"loss": "gce", "loss_strength": 0.5, "sampling": "balanced"},
            " loss=gce. loss_strength=0.5. sampling=balanced.",
        ),
        ({"stop_mixing": 0.8, "augment": "mine:jitter"}, " stop_mixing=0.8. augment=mine:jitter."),
        ({"precision": "bf16"}, " Computed in bf16, contiguous."),
        (
            {"imbalance": 2.5, "label_noise": 0.6},
            TAIL.format(2.5) + NOISE.format(60, "symmetric"),
        ),
    ],
)
def test_the_report_says_what_was_done_to_the_training_images(
    changes: dict[str, Any], told: str
) -> None:
    assert preamble.scenario(replace(TRAINING, **changes)) == told


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--preset contest --seeds 1", "Preset `contest`, 1 seed."),
        ("--preset contest --seeds 3 --first-seed 5", "Preset `contest`, 3 seeds from 5 on."),
    ],
)
def test_the_report_says_preset_and_seeds(flags: str, told: str, tmp_path: Path) -> None:
    options = command_line.parse("table2", "", [*flags.split(), "--output", str(tmp_path)])
    plan, _ = work.prepare("table2", ROWS, options)
    assert preamble.preset_line(plan, options.preset) == told


def planned(flags: str, rows: Sequence[StudyRow], output: Path) -> list[TrainingConfig]:
    options = command_line.parse("table2", "", [*flags.split(), "--output", str(output)])
    plan, _ = work.prepare("table2", rows, options)
    return [cell.training for cell in plan.fixed_cells()]


def test_every_cell_of_a_study_is_of_the_scenario_and_a_row_has_settings_of_its_own(
    tmp_path: Path,
) -> None:
    flags = "--label-noise 0.4 --label-noise-kind pair --imbalance 5 --seeds 2 --meta-size 90"
    small = replace(ROWS[0], row=Row("small", "Small", "", "none"), training={"meta_size": 70})
    trainings = planned(flags, [*ROWS, small], tmp_path)
    assert [(t.meta_size, t.seed) for t in trainings] == [(90, 0), (90, 1), (70, 0), (70, 1)]
    for training in trainings:
        assert (training.label_noise, training.label_noise_kind) == (0.4, "pair")
        assert training.imbalance == 5.0


@pytest.mark.parametrize(
    ("flags", "own", "message"),
    [
        ("--train-size 1200", {}, r"needs 120 for train_size=1200 over 10 classes"),
        ("--label-noise 40", {}, r"label_noise must lie in \[0, 1\], got 40.0"),
        ("--label-noise-kind pair", {}, "no use without label_noise"),
        ("--train-size 5", {}, "--train-size 5 leaves classes of digits without .* give 10"),
        ("--imbalance 0.5", {}, "imbalance must be finite and at least 1, got 0.5"),
        ("", {"meta_size": 1700}, "meta_size=1700"),
        ("", {"lr": -1.0}, "lr must be positive"),
        ("", {"model": "transformer"}, "transformer"),
        ("", {"batchnorm_eps": 0.1}, "no use in a model without BatchNorm"),
        ("--model preact_resnet18 --width 4 --batch-size 1", {}, "--batch-size 1 is too small"),
        ("--model preact_resnet18 --width 4 --meta-batch-size 1", {}, "--meta-batch-size 1 is too"),
        ("--precision fp16", {}, "precision=fp16: cpu has no float16 arithmetic"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_training(
    flags: str, own: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_fp16_supported", lambda: False)
    with pytest.raises(ValueError, match=message):
        planned(flags, [*ROWS, replace(ROWS[0], training=own)], tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--search-trials 5", "--search-trials 5 has no use: none of the rows is searched; leave"),
        ("--search-parallel 2", "--search-parallel 2 has no use: none of the rows is searched"),
        ("--budget 4.5", "--budget 4.5 has no use: none of the rows has a strategy; leave it out"),
    ],
)
def test_a_flag_that_no_row_has_a_use_for_is_refused(
    flags: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a study that has such rows, of which --rows leaves none."""
    alpha = Searched(Beta(alpha=1.0), BETA_ALPHA)
    waiting = Listed((NoMix(),)) if "budget" in flags else alpha
    rows = [*ROWS, StudyRow(Row("waits", "Waits", "", "extra"), waiting)]
    arguments = [*flags.split(), "--preset", "smoke", "--output", str(tmp_path)]
    assert run.run_study("mine", rows, "", [*arguments, "--rows", "none"]) == run.UNUSABLE
    assert f"mine: error: {message}" in capsys.readouterr().err
    options = command_line.parse("mine", "", arguments, budgeted="budget" in flags)
    assert work.prepare("mine", options.chosen(rows), options)


# What a study reports beside its table


class Tracker:
    """Stands for the MLflow writer, and notes which files it is given."""

    how_to_open = "in this test"

    def __init__(self, *_: object, **__: object) -> None:
        self.files: list[Path] = []
        self.summaries: list[SummaryRow] = []
        self.description = ""

    def __enter__(self) -> Tracker:
        TRACKERS.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def end_cell(self, record: CellRecord) -> None:
        pass

    def summarise(self, rows: list[SummaryRow]) -> None:
        self.summaries += rows

    def describe(self, markdown: str) -> None:
        self.description = markdown

    def log_figure_files(self, paths: list[Path]) -> None:
        self.files += paths


TRACKERS: list[Tracker] = []


Settle = Callable[..., list[str]]


@pytest.fixture
def settle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_record: Any, nothing_drawn: None
) -> Iterator[Settle]:
    """Flags of a study whose cells are in the store, of the test error that is given for each."""

    def store(rows: Sequence[StudyRow], test_error: Callable[[Cell], float], seeds: int) -> Any:
        flags = ["--preset", "smoke", "--seeds", str(seeds), "--output", str(tmp_path)]
        plan, sources = work.prepare("mine", rows, command_line.parse("mine", "", flags))
        [source] = sources.values()
        environment = {"device": "cpu", "data": source.fingerprint()}
        cells = plan.fixed_cells()
        cells += [c for cell in cells for c in plan.frozen_cells(cell, QUANTILES)]
        for cell in cells:
            record = make_record(test_error=test_error(cell), lam_quantiles=list(QUANTILES))
            CellStore(tmp_path).save(replace(record, cell=cell, environment=environment))
        return flags

    monkeypatch.setattr(work, "StudyTracker", Tracker)
    yield store
    TRACKERS.clear()


@pytest.fixture
def settled(settle: Settle) -> list[str]:
    """Flags of a study whose only cell is in the store."""
    return settle(ROWS, lambda cell: 5.0, 1)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyboardInterrupt(), 130, "\nmine: interrupted before its first training; run the same"),
        (FileNotFoundError(2, "No such file"), 2, "mine: error: [Errno 2] No such file"),
    ],
)
def test_what_ends_a_study_while_its_flags_are_read_is_one_line(
    error: BaseException,
    status: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(run, "parse", fail)
    assert run.run_study("mine", ROWS, "", []) == status
    assert capsys.readouterr().err.startswith(words)


@pytest.mark.parametrize("fresh", [[], ["--fresh"]])
@pytest.mark.parametrize("early", [False, True])
def test_an_early_end_says_how_to_go_on(
    fresh: list[str],
    early: bool,
    settled: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without --fresh only once old results are set aside: they would count as trained again."""
    place = (work, "prepare") if early else (Tracker, "__enter__")
    ends: list[tuple[BaseException, int, str]] = [
        (KeyboardInterrupt(), 130, "mine: interrupted"),
        (OSError(28, "No space left"), 2, "mine: error: [Errno 28] No space left"),
    ]
    for error, status, words in ends:

        def fail(*_: Any, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(*place, fail)
        assert run.run_study("mine", ROWS, "", [*settled, *fresh]) == status
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith(words)
        assert "run the same command" in said
        assert ("without --fresh" in said) == (not (fresh and early))


def test_a_study_has_parts_of_the_report_of_its_own(
    settled: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Outcome] = []

    def first(outcome: Outcome) -> Extra:
        seen.append(outcome)
        path = outcome.output / "own.csv"
        path.write_text("a\n1\n")
        return Extra("## Mine\n\nIt is so.\n", [path])

    extras = [
        first,
        lambda _: Extra(metrics={("none", "digits"): {"own": 1.0}}),
        lambda _: Extra("## Last", metrics={("none", "digits"): {"other": 2.0}}),
    ]
    assert run.run_study("mine", ROWS, "", settled, extras=extras) == 0
    [outcome] = seen
    assert [r.cell.method for r in outcome.records] == ["none"]
    assert list(outcome.frame["method"]) == ["none"]
    assert [source.name for source in outcome.sources.values()] == ["digits"]
    assert outcome.plan.study == "mine"
    report = (tmp_path / "mine.md").read_text()
    assert report.count("# mine\n") == 1
    assert report.endswith("\n\n## Mine\n\nIt is so.\n\n## Last\n")
    assert report.index("| None") < report.index("## Mine")
    said = capsys.readouterr().out
    assert said.index("| None") < said.index("## Mine\n\nIt is so.\n\n## Last\n")
    [files] = [line for line in said.splitlines() if line.startswith("files: ")]
    assert files.endswith("mine-data.json")
    names = ["mine.csv", "mine.md", "mine.png", "own.csv", "mine-data.json"]
    assert [path.name for path in TRACKERS[0].files] == names
    assert [row.further for row in TRACKERS[0].summaries] == [{"own": 1.0, "other": 2.0}]
    described = TRACKERS[0].description
    assert 0 <= described.index("| None") < described.index("## Mine")


def test_a_part_of_the_report_that_fails_leaves_the_rest(
    settled: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(outcome: Outcome) -> Extra:
        raise KeyError("no such row")

    extras = [broken, lambda _: Extra("## Last")]
    assert run.run_study("mine", ROWS, "", settled, extras=extras) == work.CRASHED
    said = capsys.readouterr()
    [line] = [text for text in said.err.splitlines() if "mine: error" in text]
    assert line.startswith("mine: error: the part broken of the report failed: KeyError: 'no such")
    assert "test_study.py:" in line
    assert "| None" in said.out
    assert (tmp_path / "mine.md").read_text().endswith("\n\n## Last\n")
    assert len(TRACKERS[0].files) == 4


def test_a_figure_that_cannot_be_drawn_leaves_the_table(
    settled: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("no such glyph")

    monkeypatch.setattr(work, "study_figure", refuse)
    assert run.run_study("mine", ROWS, "", settled) == work.CRASHED
    said = capsys.readouterr()
    assert "| None" in said.out
    assert "part figure of the report failed: ValueError: no such glyph" in said.err
    assert len(TRACKERS[0].summaries) == 1


PRINTING = """
import os, sys, pandas, scipy.stats, sklearn.datasets, torch  # once, for both
sys.path.insert(0, {root!r})
from hpo.report.style import canvas
from tests.hpo.run import test_study as here
here.work.StudyTracker = here.Tracker
here.work.study_figure = lambda *_: canvas(1, 1)
reading, closed = os.pipe()
os.close(reading)
for name, output in (("full", os.open("/dev/full", os.O_WRONLY)), ("closed", closed)):
    if (child := os.fork()) == 0:
        os.dup2(output, 1)
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT, 0o600), 2)
        status = here.run.run_study("mine", here.ROWS, "", {flags!r})
        assert len(here.TRACKERS[0].files) == 4
        sys.exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_standard_output_that_takes_nothing_loses_nothing(
    settled: list[str], tmp_path: Path
) -> None:
    """In processes of their own, as Python writes once more at its end: on a full disk, which is
    told, and to a closed pipe, as nobody reads what it misses."""
    script = PRINTING.format(root=str(Path(__file__).parents[3]), flags=settled)
    statuses = subprocess.check_output([sys.executable, "-c", script], cwd=tmp_path, text=True)
    assert statuses.split() == ["1", "0"]
    full, closed = ((tmp_path / name).read_text() for name in ("full", "closed"))
    assert "could not be printed" in full
    assert "could not be printed" not in closed
    for said in (full, closed):
        assert "Traceback" not in said
        assert "Exception ignored" not in said


def test_the_report_names_settings_that_a_row_has_for_itself(
    settled: list[str], tmp_path: Path
) -> None:
    # Settings at the value they have anyway leave the cell what it is.
    rows = [replace(ROWS[0], training={"meta_in_training": False})]
    assert run.run_study("mine", rows, "", settled) == 0
    assert "\nNone: meta_in_training=False.\n" in (tmp_path / "mine.md").read_text()


def test_a_study_with_a_learned_row_says_whether_learning_pays(
    settle: Settle, tmp_path: Path
) -> None:
    learned = StudyRow(Row("mine", "Mine", "", "learned"), LearnedConfig())
    rows = [*ROWS, learned, *controls(learned)]
    flags = settle(rows, lambda cell: 5.0 + len(cell.method) + cell.seed**2, 2)
    assert run.run_study("mine", rows, "", flags) == 0
    report = (tmp_path / "mine.md").read_text()
    assert "## Does learning pay?" in report
    assert "| Mine    |     −8.00 |        – |" in report
    assert (tmp_path / "mine-controls.csv").exists()
    further = {row.method: row.further for row in TRACKERS[0].summaries if row.further}
    assert further["mine"]["minus_frozen"] == -7.0
