"""The command `metamixup`: its names, and what it does beside running a study."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from core.data.masks import pack_mask
from core.mixing.remedies import EarlyLearning, GeneralizedCrossEntropy
from core.policies import Beta, NoMix, PolicyConfig
from core.training.config import TrainingConfig
from hpo.cells.cell import Cell
from hpo.cells.record import CellRecord
from hpo.cells.store import CellStore
from hpo.command_line import examination, flags
from studies import __main__ as metamixup
from studies.commands import open as open_results
from tests.support.results import result
from tests.support.scripts import ROOT


def test_every_script_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert metamixup.main(["--help"]) == 0
    text = capsys.readouterr().out
    others = {"__init__", "__main__", "rows", "paper_numbers"}
    scripts = {path.stem for path in (ROOT / "studies").glob("*.py")} - others
    for name in {*scripts, "compare-runs", "examine", "open"}:
        assert re.search(rf"^  {name.replace('_', '-')} +[A-Z]", text, re.MULTILINE), name
    assert not others & {name.replace("-", "_") for name in metamixup.commands()}
    assert max(map(len, text.splitlines())) < 160


def test_the_list_of_commands_may_be_cut_off() -> None:
    """As `metamixup --help | head -1` does it: with a pipe that nobody reads any more."""
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run(
        [sys.executable, "-m", "studies", "--help"],
        cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(write)
    assert (run.returncode, run.stderr) == (0, "")


def test_an_unknown_command_is_told_a_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert metamixup.main(["tabel2"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("metamixup: error: no command 'tabel2'; did you mean table")


@pytest.mark.parametrize(
    ("started", "shown"),
    [
        ("/usr/bin/metamixup", "metamixup alpha-search"),
        ("C:/Scripts/metamixup.exe", "metamixup alpha-search"),
        ("site-packages/studies/__main__.py", "python -m studies alpha-search"),
        ("studies/alpha_search.py", "studies/alpha_search.py"),
    ],
)
def test_help_names_the_command_as_it_was_started(
    started: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flags.sys, "argv", [started])
    assert flags.program("alpha_search") == shown


def test_the_loss_of_the_training_is_examined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what fails is said in a line."""
    (tmp_path / "examined_parts.py").write_text(
        "from torch import nn\n"
        "def net(): return nn.Sequential(nn.Flatten(), nn.Linear(5, 10))\n"
        "def augment(x): raise RuntimeError('broken')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    losses: list[object] = []
    real = examination.examine

    def noted(*given: Any, loss: Any, **more: Any) -> Any:
        losses.append(loss)
        return real(*given, loss=loss, **more)

    monkeypatch.setattr(examination, "examine", noted)
    for loss in ("gce", "elr"):
        assert metamixup.main(["examine", "--images", "3", "--loss", loss]) == 0
    assert [type(loss) for loss in losses] == [GeneralizedCrossEntropy, EarlyLearning]
    capsys.readouterr()
    for flag, words in {
        "--model examined_parts:net": "model examined_parts:net, in its mode eval, fails on a",
        "--augment examined_parts:augment": "augment examined_parts:augment fails on a batch",
    }.items():
        assert metamixup.main(["examine", *flag.split()]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"examine: error: {words}")
        assert error.count("\n") == 1


def test_a_network_is_examined(capsys: pytest.CaptureFixture[str]) -> None:
    assert metamixup.main(["examine", "--dataset", "digits", "--images", "4"]) == 0
    assert 'Take engine="auto".' in capsys.readouterr().out
    assert metamixup.main(["examine", "--model", "nowhere:net"]) == 2
    assert capsys.readouterr().err.startswith("examine: error: nowhere:net cannot be imported")
    assert metamixup.main(["examine", "--images", "0"]) == 2
    assert "--images must be at least 1" in capsys.readouterr().err


def stored(
    folder: Path,
    method: str,
    errors: list[float],
    policy: PolicyConfig | None = None,
    left_out: Sequence[str] = (),
    data: str = "",
    **settings: object,
) -> None:
    """Stores finished trainings, a seed an error; `left_out` are the images of each seed, `data`
    the fingerprint of all."""
    policy = policy or (NoMix() if method == "none" else Beta(1.0))
    for seed, error in enumerate(errors):
        own = {"left_out": left_out[seed]} if left_out else {}
        training = TrainingConfig(
            "digits", "cnn", policy, seed=seed, meta_size=60, **own, **settings
        )
        ended = result(test_error=error, val_error=error)
        environment = {"data": data} if data else {}
        record = CellRecord(Cell(method, training), "finished", ended, None, environment)
        CellStore(folder).save(record)


def test_stored_trainings_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Differences 2, 3, 4: mean 3, standard error 1/√3, t(2) at 97.5 % is 4.3027: ± 2.48."""
    folder = tmp_path / "a"
    stored(folder, "none", [5.0, 6.0, 7.0])
    stored(folder, "beta-1", [7.0, 9.0, 11.0])
    stored(folder, "beta-1", [6.0], epochs=7)
    csv = tmp_path / "told" / "differences.csv"
    arguments = ["compare-runs", str(folder), "--reference", "none", "--csv", str(csv)]
    assert metamixup.main(arguments) == 0
    table = capsys.readouterr().out
    assert re.search(r"none \(reference\) +\| 6\.00 ± 2\.48 \| +3 \|", table)
    line = re.search(r"beta-1, epochs=\d+ +\| 9\.00 ± 4\.97 .*", table)
    assert line is not None
    assert "+3.00 [+0.52, +5.48]" in line[0]
    # t = 3√3, 2 degrees of freedom: p = 1 − t/√(2 + t²); the other comparison has no p.
    assert "0.035" in line[0]
    assert re.search(r"beta-1, epochs=7 +\| +6\.00 \| +1 \| +\+1\.00 \|", table)
    frame = pd.read_csv(csv, keep_default_na=False, na_values=[""]).set_index("method")
    assert frame["reference"].tolist() == ["none"] * 3
    assert sorted(frame["n_seeds"]) == [1, 3, 3]
    assert math.isnan(frame.loc["none", "difference"])
    [named] = [name for name in frame.index if name not in ("none", "beta-1, epochs=7")]
    half = 4.302652729911275 / math.sqrt(3)
    assert list(frame.loc[named, ["difference", "diff_ci_low", "diff_ci_high", "p_value"]]) == (
        pytest.approx([3.0, 3 - half, 3 + half, 1 - math.sqrt(27 / 29)])
    )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--methods", "none,scores"], "no finished training of 'scores'; there are none"),
        (["--reference", "beta-1"], "no finished training of 'beta-1'; there are none"),
        (["nowhere"], "there is no folder nowhere; give a study's --output"),
        (["empty"], "empty holds no finished training; give a study's --output"),
    ],
)
def test_what_is_not_stored_is_named(
    more: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    stored(tmp_path / "a", "none", [5.0])
    (tmp_path / "empty").mkdir()
    assert metamixup.main(["compare-runs", "a", *more]) == 2
    assert capsys.readouterr().err == f"compare-runs: error: {words}\n"


def test_records_that_cannot_be_used_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(tmp_path / "a", "none", [5.0])
    [path] = (tmp_path / "a").rglob("result.json")
    whole = path.read_text()
    for old, new, words in [
        ('"test_error": 5.0', '"test_error": null', f"test_error is None, .*delete {path.parent}"),
        ('"test_error": 5.0', '"test_error": NaN', "test_error is nan, and no number"),
        ('"kind": "none"', '"kind": "mine"', "is of another version, or of code of your own"),
        ('"epochs": 600', '"epochs": 600, "later": 1', r"own \(unknown training settings"),
    ]:
        assert old in whole
        path.write_text(whole.replace(old, new))
        assert metamixup.main(["compare-runs", str(tmp_path / "a")]) == 2
        assert re.search(words, capsys.readouterr().err)


def test_two_folders_are_set_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    stored(Path("a").absolute(), "none", [5.0, 6.0])
    stored(Path("b").absolute(), "none", [6.0, 7.0])
    assert metamixup.main(["compare-runs", "a", "b", "./a"]) == 0  # one of them twice
    table = capsys.readouterr().out
    assert "a: none (reference)" in table
    assert re.search(r"b: none +\| 6\.50 ± 6\.35 \| +2 \| +\+1\.00 \|", table)
    assert "n = " not in table  # all of b's seeds are a's


def test_a_difference_over_fewer_seeds_than_the_mean_says_how_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(tmp_path, "none", [5.0, 6.0])
    stored(tmp_path, "beta-1", [7.0, 10.0, 40.0])
    assert metamixup.main(["compare-runs", str(tmp_path), "--reference", "none"]) == 0
    table = capsys.readouterr().out
    assert re.search(r"beta-1 +\| 19\.00 ± [\d.]+ \| +3 \| \+3\.00 \[[^]]+\], n = 2 \|", table)


def test_trainings_on_other_data_of_one_name_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images of another size are other data by right, and so is what began with other weights."""
    monkeypatch.chdir(tmp_path)
    stored(Path("a"), "none", [5.0, 6.0], data="0123456789abcdef")
    stored(Path("b"), "none", [6.0, 7.0], data="0123456789abcdef" + "weights")
    stored(Path("b"), "none", [6.0, 7.0], data="another", image_size=16)
    assert metamixup.main(["compare-runs", "a", "b"]) == 0
    stored(Path("c"), "none", [6.0, 7.0], data="fedcba9876543210")
    capsys.readouterr()
    assert metamixup.main(["compare-runs", "a", "c"]) == 2
    assert capsys.readouterr().err == (
        "compare-runs: error: a and c were trained on different images or labels of digits "
        "(fingerprints 0123456789abcdef and fedcba9876543210); give folders of the same data\n"
    )


def test_the_error_of_images_that_train_is_no_validation_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(tmp_path, "none", [7.0, 8.0])
    stored(tmp_path, "none+meta", [1.0, 2.0], meta_in_training=True)
    asked = ["compare-runs", str(tmp_path), "--measure", "val_error"]
    assert metamixup.main(asked) == 2
    assert "the val_error of none+meta is one of images that train;" in capsys.readouterr().err
    assert metamixup.main([*asked, "--methods", "none"]) == 0
    assert metamixup.main(asked[:2]) == 0


def test_the_reference_is_compared_with_whatever_is_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method, errors in {"none": [7.0, 8.0], "beta-1": [6.0, 5.0], "beta-2": [5.0, 6.0]}.items():
        stored(tmp_path, method, errors)
    chosen = ["--methods", "beta-1", "--reference", "none"]
    assert metamixup.main(["compare-runs", str(tmp_path), *chosen]) == 0
    table = capsys.readouterr().out
    assert re.search(r"\n\| none \(reference\) +\| 7\.50 ", table)
    assert re.search(r"\n\| beta-1 +\| 5\.50 ± 6\.35 \| +2 \| −2\.00 \[", table)
    assert "beta-2" not in table


def test_of_a_method_with_several_settings_the_plainest_is_the_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(tmp_path, "none", [7.0], precision="bf16")
    stored(tmp_path, "none", [6.0])
    for more in ([], ["--reference", "none"]):
        assert metamixup.main(["compare-runs", str(tmp_path), *more]) == 0
        table = capsys.readouterr().out
        assert re.search(r"\n\| none \(reference\) +\| +6\.00 \|", table)
        assert re.search(r"\n\| none, precision=bf16 +\| +7\.00 \| +1 \| +\+1\.00 \|", table)


def test_trainings_of_one_name_and_several_policies_are_several_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An α that searches with other budgets found, and one λ a sample beside one a batch."""
    stored(tmp_path, "beta-search", [5.0, 6.0], Beta(0.4))
    stored(tmp_path, "beta-search", [7.0, 8.0], Beta(1.5))
    stored(tmp_path, "beta-1", [4.0, 5.0], Beta(1.0))
    stored(tmp_path, "beta-1", [8.0, 9.0], Beta(1.0, per_sample=True))
    assert metamixup.main(["compare-runs", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    for name, mean in {
        "beta-1, policy.per_sample=False": "4.50",
        "beta-1, policy.per_sample=True": "8.50",
        "beta-search, policy.alpha=0.4": "5.50",
        "beta-search, policy.alpha=1.5": "7.50",
    }.items():
        line = (
            rf"\n\| {re.escape(name)}( \(reference\))? +\| +{re.escape(mean)} ± \d+\.\d+ +\| +2 \|"
        )
        assert re.search(line, table), name


def test_a_row_that_leaves_out_other_images_each_seed_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a row does that is filtered by what others suspect."""
    masks = [pack_mask(torch.arange(100) == image) for image in (3, 4, 5)]
    stored(tmp_path, "filtered", [5.0, 6.0, 7.0], NoMix(), masks)
    assert metamixup.main(["compare-runs", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    assert re.search(r"\n\| filtered \(reference\) +\| 6\.00 ± 2\.48 \| +3 \|", table)


def test_a_folder_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(open_results, "webbrowser", SimpleNamespace(open=opened.append))
    for name in ("table2.md", "table2-errors.md"):
        (tmp_path / name).write_text(f"# {name[:-3]}\n\n## digits\n\n| a | b |\n| --- | --: |\n")
    for name in ("table2.csv", "table2-controls.csv", "table2-errors.csv", "other.csv"):
        (tmp_path / name).touch()
    assert metamixup.main(["open", str(tmp_path)]) == 0
    page = tmp_path / "index.html"
    assert capsys.readouterr().out == f"{page}\n"
    assert opened == [page.as_uri()]
    text = page.read_text()
    first, second = text.split('<h2 id="table2')[1:]
    assert re.findall(r'href="([^"#]*)"', first) == ["table2.csv", "table2-controls.csv"]
    assert re.findall(r'href="([^"#]*)"', second) == ["table2-errors.csv"]
    assert "<h3" in first
    assert metamixup.main(["open", str(tmp_path / "nowhere")]) == 2
    assert "is no folder; give a study's --output" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert metamixup.main(["open", str(tmp_path / "empty")]) == 2
    assert "holds no report of a study; run one with --output" in capsys.readouterr().err
    (tmp_path / "table2.md").write_bytes(b"# table2\xff")
    assert metamixup.main(["open", str(tmp_path)]) == 2
    assert "table2.md is damaged" in capsys.readouterr().err


def test_functions_that_cannot_be_compared_are_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path), "--workers", "0"]
    assert metamixup.main(["compare-functions", "--seeds", "1", *output]) == 2
    error = capsys.readouterr().err
    assert error.startswith("compare_functions: error: seeds must be at least 2")
    assert error.count("\n") == 1
