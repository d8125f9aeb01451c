from __future__ import annotations

import importlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest

from hpo.command_line import parse
from hpo.storage.output_folder import reserved
from studies import reproduce
from studies.reproduce import MORE, PARTS, main, parts_of


def test_every_part_is_a_study_and_every_study_of_the_paper_is_a_part() -> None:
    folder = Path(reproduce.__file__).parent
    ours = {
        p.stem for kind in ("table", "figure", "proposition") for p in folder.glob(f"{kind}*.py")
    }
    assert {part.study for part in PARTS} == ours
    keys = [part.key for part in parts_of("paper")]
    assert len(set(keys)) == len(keys)
    places = [(part.folder, part.study) for part in parts_of("paper")]
    assert len(set(places)) == len(places)  # none writes over another's files
    for part in PARTS:
        assert callable(importlib.import_module(f"studies.{part.study}").main)
    assert parts_of("smoke") == parts_of("quick") == PARTS
    assert {part.study for part in MORE} == {"table1", "table3", "table4"}


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Returns what each part's study is called with; table4 fails."""
    calls: dict[str, list[str]] = {}

    def study(part: reproduce.Part) -> reproduce.Study:
        def made(arguments: Sequence[str]) -> int:
            calls[part.key] = list(arguments)
            return int(part.study == "table4")

        return made

    monkeypatch.setattr(reproduce, "_study", study)
    return calls


@pytest.mark.parametrize(
    ("preset", "datasets", "seeds"), [("smoke", ("digits",), 1), ("quick", ("fashion_mnist",), 3)]
)
def test_what_studies_are_told(
    preset: str,
    datasets: tuple[str, ...],
    seeds: int,
    called: dict[str, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--preset", preset, "--output", str(tmp_path)]) == 1
    assert list(called) == [part.key for part in PARTS]
    for key, flags in called.items():
        few_labels = key in ("table3", "table4", "table5")
        options = parse(key, "", flags, budgeted=key == "table5", semi_supervised=few_labels)
        assert (options.datasets, options.preset, options.seeds) == (datasets, preset, seeds)
        assert options.output == tmp_path
        assert options.tracking_uri == f"sqlite:///{tmp_path.resolve()}/mlflow.db"
    out = capsys.readouterr()
    assert f"{len(PARTS) - 1} of {len(PARTS)} parts done" in out.out
    assert "failed: table4" in out.err
    assert "**failed** (status 1)" in (tmp_path / "reproduction.md").read_text()


def test_the_paper_has_its_own_data_sets(called: dict[str, list[str]], tmp_path: Path) -> None:
    assert main(["--preset", "paper", "--output", str(tmp_path)]) == 1
    given = {
        key: [value for flag, value in itertools.pairwise(flags) if flag == "--dataset"]
        for key, flags in called.items()
    }
    assert given["table2"] == ["cifar10", "cifar100", "svhn", "mnist"]
    assert given["figure6"] == ["mnist"]
    assert given["table3-cifar10-4000"] == ["cifar10"]
    assert given["table1"] == ["mnist", "fashion_mnist"]
    assert given["table1-imagenet"] == ["imagenet"]
    assert "wrn_28_10" in called["table1-colour"]
    extra = called["table3-cifar10-4000"]
    options = parse("table3", "", extra, semi_supervised=True)
    assert (options.labels, options.seeds) == (4000, 5)
    assert options.output == tmp_path / "labels-4000-cifar10"
    assert options.tracking_uri == f"sqlite:///{tmp_path.resolve()}/mlflow.db"


def test_flags_reach_every_study(called: dict[str, list[str]], tmp_path: Path) -> None:
    given = (
        "--seeds 2 --epochs 4 --workers 3 --threads 2 --gpus-per-cell 0.5 --device cuda "
        "--address auto --tracking-uri http://x:1 --dataset mnist --dataset digits "
        "--storage s3://bucket/all/"
    )
    arguments = [*given.split(), "--data-root", str(tmp_path), "--output", str(tmp_path)]
    assert main([*arguments, "--only", "figure2,table2"]) == 0
    assert list(called) == ["table2", "figure2"]
    options = parse("figure2", "", called["figure2"])
    assert options.datasets == ("mnist", "digits")
    assert (options.seeds, options.overrides, options.workers) == (2, {"epochs": 4}, 3)
    assert (options.threads, options.gpus_per_cell, options.device) == (2, 0.5, "cuda")
    assert (options.address, options.tracking_uri) == ("auto", "http://x:1")
    assert options.data_root == tmp_path
    assert options.storage.uri == "s3://bucket/all"


def test_a_part_with_a_folder_of_its_own_has_one_in_the_storage(
    called: dict[str, list[str]], tmp_path: Path
) -> None:
    flags = ["--preset", "paper", "--only", "table3-cifar10-4000", "--storage", "/shared"]
    assert main([*flags, "--output", str(tmp_path)]) == 0
    options = parse("table3", "", called["table3-cifar10-4000"], semi_supervised=True)
    assert options.storage.uri == "/shared/labels-4000-cifar10"


def test_the_report_alone_runs_nothing(called: dict[str, list[str]], tmp_path: Path) -> None:
    (tmp_path / "table2.md").write_text("# table2\n\nfrom before\n")
    assert main(["--report", "--output", str(tmp_path)]) == 0
    assert not called
    assert "from before" in (tmp_path / "reproduction.html").read_text()


def test_an_unknown_part_is_named(
    called: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--only", "table2,table9", "--output", str(tmp_path)]) == 2
    assert "unknown part 'table9'; choose among table1, table2" in capsys.readouterr().err
    assert not called


def test_an_interrupt_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reproduce, "_study", lambda part: lambda arguments: 130)
    assert main(["--preset", "smoke", "--output", str(tmp_path)]) == 130
    assert "run the same command again" in capsys.readouterr().err
    assert not (tmp_path / "reproduction.html").exists()


def test_while_another_runs_in_the_folder_it_is_refused(
    called: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with reserved(tmp_path, "reproduce"):
        assert main(["--preset", "smoke", "--output", str(tmp_path)]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("reproduce: error: another reproduce (process ")
        assert not called
        assert main(["--report", "--output", str(tmp_path)]) == 0


@pytest.mark.slow
def test_a_figure_for_real(tmp_path: Path, nothing_drawn: None) -> None:
    arguments = ["--preset", "smoke", "--epochs", "1", "--output", str(tmp_path)]
    assert main([*arguments, "--only", "figure6"]) == 0
    text = (tmp_path / "reproduction.md").read_text()
    assert "(#figure-6-frequency-of-λ) | smoke | done |" in text
    page = (tmp_path / "reproduction.html").read_text()
    assert page.count("data:image/png;base64,") == len(list(tmp_path.glob("figure6*.png"))) >= 1
    assert "<table>" in page
