from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.data import Source, source_from_arrays
from core.policies import Beta, LearnedConfig, NoMix
from core.training.config import TrainingConfig
from hpo import command_line
from hpo.command_line import Options
from hpo.search.spaces import LEARNED_STEP
from hpo.storage.folder import FolderStorage
from hpo.study import few_label_presets
from hpo.study.recipes import SEARCHED_ALPHA, Searched
from hpo.study.rows import Row, StudyRow, controls

ROWS = [
    StudyRow(Row("none", "None", "", "none"), NoMix()),
    StudyRow(Row("beta-1", "Beta", "", "beta"), Beta(alpha=1.0)),
    StudyRow(Row("beta-search", "Searched", "", "beta"), SEARCHED_ALPHA),
    StudyRow(Row("metamixup", "MetaMixUp", "", "learned"), LearnedConfig()),
]


def source_of(per_class: int) -> Source:
    labels = np.repeat(np.arange(10), per_class)
    pixels = np.zeros((len(labels), 2, 2), np.uint8)
    return source_from_arrays("mnist", pixels, labels, pixels, labels)


MANY, FEW = source_of(500), source_of(10)


def parse(*arguments: str) -> Options:
    return command_line.parse("table2", "Table II.", arguments)


def keys(*arguments: str) -> list[str]:
    return [row.row.key for row in parse(*arguments).chosen(ROWS)]


def test_without_flags_it_is_quick_on_digits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse() == Options(
        datasets=("digits",),
        preset="quick",
        seeds=3,
        rows=None,
        overrides={},
        search_trials=None,
        budget=None,
        output=tmp_path / "results",
        storage=FolderStorage(tmp_path / "results", relative=True),
        tracking_uri=None,
        address=None,
        workers=None,
        threads=1,
        device="cpu",
        gpus_per_cell=0.0,
        data_root=None,
        fresh=False,
    )


def test_every_flag_arrives(tmp_path: Path) -> None:
    given = (
        "--dataset mnist --dataset folder:/birds --dataset mnist --preset paper --seeds 5 "
        "--first-seed 20 --rows none,beta-1 --search-trials 9 --tracking-uri http://host:5000 "
        "--address ray:1 --workers 7 --threads 2 --device cuda --gpus-per-cell 0.25 "
        "--data-root /data --fresh"
    )
    options = parse(
        *given.split(),
        "--output",
        str(tmp_path / "my results"),
        "--storage",
        str(tmp_path / "cells"),
    )
    assert options == Options(
        datasets=("mnist", "folder:/birds"),
        preset="paper",
        seeds=5,
        rows=("none", "beta-1"),
        overrides={},
        search_trials=9,
        budget=None,
        output=tmp_path / "my results",
        storage=FolderStorage(tmp_path / "cells"),
        tracking_uri="http://host:5000",
        address="ray:1",
        workers=7,
        threads=2,
        device="cuda",
        gpus_per_cell=0.25,
        data_root=Path("/data"),
        fresh=True,
        first_seed=20,
    )


def test_semi_supervised_studies_have_labels_and_more_presets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def semi(*arguments: str) -> Options:
        return command_line.parse("table3", "", arguments, semi_supervised=True)

    monkeypatch.setattr("core.data.load_source", lambda name, root, image_size: MANY)
    for preset in ("paper", "oliver", "mixmatch"):
        training, _ = semi("--preset", preset, "--epochs", "20", "--lr", "0.5").load("mnist")
        expected = few_label_presets.training("mnist", preset, epochs=20)
        # Of 5,000 images a tenth is labelled, and 500 are for meta-validation.
        assert expected.semi is not None
        few = replace(expected.semi, labelled=500)
        assert training == replace(expected, lr=0.5, semi=few)
    training, _ = semi("--labels", "700").load("mnist")
    assert training.semi is not None
    assert training.semi.labelled == 700
    assert parse().labels is None
    for wrong in (lambda: parse("--labels", "3"), lambda: parse("--preset", "oliver")):
        with pytest.raises(SystemExit):
            wrong()
        assert "error" in capsys.readouterr().err


def test_strategies_have_a_budget_in_place_of_trials(capsys: pytest.CaptureFixture[str]) -> None:
    def budgeted(*arguments: str) -> Options:
        return command_line.parse("contrast", "", arguments, budgeted=True)

    assert budgeted().budget is None
    assert budgeted("--budget", "7.5").budget == 7.5
    for value in ("0", "-1", "nan", "inf"):
        with pytest.raises(ValueError, match="--budget must be positive and finite, got"):
            budgeted("--budget", value)
    wrongs = [("--search-trials", "3"), ("--search-parallel", "2")]
    for wrong in (*(partial(budgeted, *w) for w in wrongs), lambda: parse("--budget", "3")):
        with pytest.raises(SystemExit):
            wrong()
        assert "unrecognized arguments" in capsys.readouterr().err


def test_the_output_is_absolute_and_knows_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert parse("--output", "~/out").output == Path("/home/me/out")
    assert parse("--output", "out").output == Path.cwd() / "out"


def test_a_study_changes_the_preset_and_the_user_has_the_last_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def load_source(name: str, root: Path | None, image_size: int | None) -> Source:
        seen.append(image_size)
        return FEW

    def adapted(training: TrainingConfig) -> TrainingConfig:
        return replace(training, model="cnn_smooth", lr=0.3, image_size=9, meta_size=60)

    monkeypatch.setattr("core.data.load_source", load_source)
    training, _ = parse("--lr", "0.7").load("mnist", adapted)
    # Its sizes are cut to a small data set as the preset's are.
    assert (training.model, training.lr) == ("cnn_smooth", 0.7)
    assert (training.image_size, training.meta_size) == (9, 20)
    assert seen == [9]


def test_a_small_data_set_cuts_the_preset_and_not_the_flags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("core.data.load_source", lambda name, root, image_size: FEW)
    training, _ = parse().load("mnist")
    assert (training.train_size, training.meta_size) == (None, 20)
    training, _ = parse("--train-size", "500", "--meta-size", "90").load("mnist")
    assert (training.train_size, training.meta_size) == (500, 90)


def test_one_folder_has_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["folder:birds", "folder:./birds/", f"folder:{tmp_path}/birds"]
    given = [flag for name in names for flag in ("--dataset", name)]
    assert parse(*given).datasets == (f"folder:{tmp_path.resolve()}/birds",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--seeds 0", "--seeds must be at least 1, got 0"),
        ("--seeds 10001", "--seeds must be at most 10000, got 10001"),
        ("--first-seed -1", r"--first-seed must be in \[0, 9997\], got -1"),
        ("--seeds 5 --first-seed 9996", r"--first-seed must be in \[0, 9995\], got 9996"),
        ("--workers 0", "--workers must be at least 1, got 0"),
        ("--workers -2", "--workers must be at least 1, got -2"),
        ("--threads 0", "--threads must be at least 1, got 0"),
        ("--search-trials 0", "--search-trials must be at least 1, got 0"),
        ("--search-parallel 0", "--search-parallel must be at least 1, got 0"),
        ("--gpus-per-cell -1", "--gpus-per-cell must be at least 0 and finite, got -1.0"),
        ("--gpus-per-cell nan", "--gpus-per-cell must be at least 0 and finite, got nan"),
        ("--gpus-per-cell 0.25", "would reserve GPUs for trainings on cpu; add --device cuda"),
        ("--gpus-per-cell auto", "auto measures on a GPU; add --device cuda"),
        ("--device cuda --address ray:1 --gpus-per-cell 0", "leaves a cell no GPU; give a share"),
        ("--output s3://bucket/x", "--output is a folder .* --storage that takes a URI"),
        ("--storage s3://bucket", "give bucket and prefix"),
    ],
)
def test_a_value_out_of_range_is_named(arguments: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(*arguments.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--preset slow", "invalid choice: 'slow'"),
        ("--seeds three", "invalid int value: 'three'"),
        ("--device tpu", "invalid choice: 'tpu'"),
        ("--color red", "unrecognized arguments: --color red; --help lists"),
        ("--sedes=3", "unrecognized arguments: --sedes=3; did you mean --seeds? "),
        ("--sead=3", "unrecognized arguments: --sead=3; did you mean --seeds? "),  # no --seed
        ("--output=", "argument --output: names no folder (it is empty)"),
        ("--data-root=", "argument --data-root: names no folder (it is empty)"),
        ("--storage=", "argument --storage: names no place (it is empty)"),
        ("--tracking-uri=", "argument --tracking-uri: names no place (it is empty)"),
        ("--dataset folder:caf\udce9", "folder:caf\\udce9 is not UTF-8; rename the file or folder"),
    ],
)
def test_a_flag_that_makes_no_sense_is_named_in_one_line(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(*arguments.split())
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("studies/table2.py: error: ")
    assert message in said
    assert said.endswith("--help lists the flags\n")
    assert said.count("\n") == 1


def test_help_shows_the_studys_own_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command_line.parse("table2", "What it costs:\n    two columns", ["--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert "What it costs:\n    two columns" in said
    assert "fashion_mnist" in said
    assert "Run again, a command goes on where it was" in said


def test_cuda_is_asked_for_here_or_on_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    on_cluster = ("--device", "cuda", "--address", "auto")
    assert parse(*on_cluster).gpus_per_cell == 1.0
    assert parse(*on_cluster, "--gpus-per-cell", "auto").gpus_per_cell is None
    with pytest.raises(ValueError, match="no CUDA device here; use --device cpu or --address"):
        parse("--device", "cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert parse("--device", "cuda").gpus_per_cell == 1.0
    assert parse("--device", "cuda", "--gpus-per-cell", "0.5").gpus_per_cell == 0.5


@pytest.mark.parametrize(
    ("gpus", "asked", "device"),
    [
        ({}, (), "cpu"),
        ({"cuda", "mps"}, (), "cuda"),
        ({"mps"}, (), "mps"),
        ({"cuda"}, ("--device", "cpu"), "cpu"),
        ({"cuda"}, ("--address", "auto"), "cpu"),
        ({}, ("--address", "auto", "--device", "mps"), "mps"),
    ],
)
def test_auto_is_the_best_device_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, gpus: set[str], asked: tuple[str, ...], device: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: "cuda" in gpus)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: "mps" in gpus)
    options = parse(*asked)
    assert options.device == device
    assert options.gpus_per_cell == (1.0 if device == "cuda" else 0.0)


def test_mps_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(ValueError, match="--device mps: no MPS device here; use --device cpu"):
        parse("--device", "mps")


# Rows


def test_all_rows_by_default_and_in_quick_the_searched_one_with_more_images() -> None:
    table = ["none", "beta-1", "beta-search", "metamixup"]
    assert keys("--preset", "smoke") == keys("--preset", "paper") == table
    assert keys("--preset", "quick") == [*table, "beta-search+meta"]


@pytest.mark.parametrize("family", ["learned", "extra"])
def test_a_searched_row_that_is_no_beta_comes_once(family: Any) -> None:
    """What learns cannot train on the images that it learns from, and is not asked to."""
    row = StudyRow(Row("mine", "Mine", "", family), Searched(LearnedConfig(), LEARNED_STEP))
    assert parse("--preset", "quick").chosen([row]) == [row]


def test_chosen_rows_come_in_the_tables_order() -> None:
    assert keys("--rows", "metamixup,none") == ["none", "metamixup"]
    assert keys("--rows", "none,none") == ["none"]
    asked = "beta-1+meta,metamixup,beta-search+meta,none"
    assert keys("--rows", asked) == ["none", "metamixup", "beta-1+meta", "beta-search+meta"]
    [row] = parse("--rows", "beta-1+meta").chosen(ROWS)
    assert row.meta_in_training
    assert row.policy == Beta(alpha=1.0)


def test_contenders_are_in_a_contest_and_where_they_are_asked_for() -> None:
    table, [contender] = ROWS[:-1], ROWS[-1:]

    def named(*arguments: str) -> set[str]:
        return {row.row.key for row in parse(*arguments).chosen(table, [contender])}

    assert named("--preset", "contest") == {row.row.key for row in ROWS}
    assert contender.row.key not in named() | named("--preset", "paper")
    assert named("--rows", contender.row.key) == {contender.row.key}


@pytest.mark.parametrize("name", ["beta-x", "beta-x+meta", "", "gamma-3-x2"])
def test_an_unknown_row_is_named_with_those_there_are(name: str) -> None:
    with pytest.raises(ValueError, match="choose among none, beta-1, beta-search, metamixup") as e:
        keys("--rows", f"none,{name}")
    assert f"unknown row {name!r}" in str(e.value)
    with pytest.raises(ValueError, match="unknown row ''"):  # an empty variable of a shell
        keys("--rows", "")


def test_a_frozen_row_comes_with_its_source() -> None:
    table = [*ROWS, *controls(ROWS[-1])]

    def chosen(names: str) -> list[str]:
        return [row.row.key for row in parse("--rows", names).chosen(table)]

    assert chosen("metamixup-frozen,metamixup") == ["metamixup", "metamixup-frozen"]
    assert chosen("metamixup-placebo") == ["metamixup-placebo"]
    with pytest.raises(ValueError, match="add it: metamixup,metamixup-frozen"):
        chosen("none,metamixup-frozen")


def test_a_learned_row_cannot_train_on_its_meta_images() -> None:
    with pytest.raises(ValueError, match="learns from the meta-validation images"):
        keys("--rows", "metamixup+meta")
