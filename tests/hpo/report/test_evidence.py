"""Evidence files, and the tables that pages have of them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from core.policies import Beta, NoMix, ScoresConfig
from core.training.config import TrainingConfig
from hpo.cells.cell import Cell
from hpo.cells.record import CellRecord, Status
from hpo.cells.result import PartialResult
from hpo.cells.store import CellStore
from hpo.report.evidence import take
from hpo.report.evidence_blocks import fill, write_pages
from hpo.study.rows import Row, StudyRow
from studies.commands.pages import main, rows_of
from tests.support.results import result

LINE = {
    "method": "none", "n_seeds": 3, "mean_error": 5.0, "ci_low": 4.75, "ci_high": 5.25,
    "diff_vs_best_beta": -0.5, "diff_ci_low": -0.75, "diff_ci_high": -0.25, "p_value": 0.0123,
    "p_holm": 0.02456, "train_seconds": 2.0, "samples_seen": 100, "label": "No MixUp",
    "family": "none", "best_beta": False, "dataset": "digits", "setting": "", "paper_error": None,
}  # fmt: skip
BETA = {
    **LINE, "method": "beta-1", "label": "MixUp", "family": "beta", "mean_error": 5.5,
    "ci_low": 5.0, "ci_high": 6.0, "samples_seen": 250, "best_beta": True,
    "diff_vs_best_beta": None, "diff_ci_low": None, "diff_ci_high": None, "p_holm": None,
}  # fmt: skip


@pytest.fixture
def evidence(tmp_path: Path) -> Path:
    place = tmp_path / "docs" / "evidence"
    place.mkdir(parents=True)
    tail = [{**line, "mean_error": line["mean_error"] + 10, "ci_high": 17.0} for line in (LINE,)]
    plain = pd.DataFrame([LINE, BETA]).assign(equal=0.1 + 0.2 - 0.3)
    plain.to_csv(place / "plain.csv", index=False)
    pd.DataFrame(tail).to_csv(place / "tail.csv", index=False)
    (place / "tail.json").write_text(json.dumps({"command": "run it", "setting": "long tail"}))
    control = {
        "dataset": "fashion_mnist", "method": "scores", "control": "placebo",
        "control_method": "scores-placebo",
        "difference": -2.0, "ci_low": -3.0, "ci_high": -1.0, "p_holm": 0.0004,
    }  # fmt: skip
    pd.DataFrame([control]).to_csv(place / "controls.csv", index=False)
    setting = {
        "dataset": "digits", "comparison": "primary", "method": "scores", "other": "beta-1",
        "n_seeds": 4, "difference": 0.127, "ci_low": -0.5, "ci_high": 0.75, "p_value": 0.0444,
        "detectable": 0.876,
    }  # fmt: skip
    pd.DataFrame([setting]).to_csv(place / "setting.csv", index=False)
    pd.DataFrame([setting]).to_csv(place / "tail-setting.csv", index=False)
    (place / "tail-setting.json").write_text((place / "tail.json").read_text())
    return place


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line]


def block(head: str, body: str = "") -> str:
    return f"before\n\n<!-- evidence: {head} -->\n{body}<!-- end -->\n\nafter\n"


@pytest.mark.parametrize(
    ("head", "table"),
    [
        (
            "plain",
            [
                "| method | error (%) | n | − best Beta † | p (Holm) | samples |",
                "| No MixUp | 5.00 ± 0.25 | 3 | −0.50 [−0.75, −0.25] | 0.025 | 1.00× |",
                "| MixUp † | 5.50 ± 0.50 | 3 | – | – | 2.50× |",
            ],
        ),
        (
            "plain rows=beta-1,none columns=method,p,cost,paper",
            [
                "| method | p | cost | paper |",
                "| MixUp † | 0.012 | 1.00× | – |",
                "| No MixUp | 0.012 | 1.00× | – |",
            ],
        ),
        (
            "plain+tail view=errors",
            [
                "| method | digits | digits, long tail |",
                "| No MixUp | 5.00 ± 0.25 | 15.00 ± 2.00 |",
                "| MixUp | 5.50 ± 0.50 | – |",
                "`run it` (commit unknown; [tail.csv](evidence/tail.csv))",
            ],
        ),
        (
            "controls view=controls",
            [
                "| row − control | Fashion-MNIST |",
                "| scores − scores-placebo | −2.00 [−3.00, −1.00], p <0.001 |",
            ],
        ),
        (
            "setting view=setting",
            [
                "| comparison | rows | n | difference | p | detectable (80 % power) |",
                "| primary | scores − beta-1 | 4 | +0.13 [−0.50, +0.75] | 0.044 | 0.88 |",
            ],
        ),
        (
            "setting+tail-setting view=setting origin=no",
            [
                "| setting | comparison | rows | n | difference | p | detectable (80 % power) |",
                "| digits | primary | scores − beta-1 | 4 | +0.13 [−0.50, +0.75] | 0.044 | 0.88 |",
                "| digits, long tail | primary | scores − beta-1 | 4 | "
                "+0.13 [−0.50, +0.75] | 0.044 | 0.88 |",
            ],
        ),
        (
            "plain view=plain rows=none columns=method,ci_low,diff_vs_best_beta,equal",
            ["| method | ci low | diff vs best beta | equal |", "| none | 4.75 | −0.5 | 0 |"],
        ),
    ],
)
def test_a_block_has_the_numbers_of_its_file(head: str, table: list[str], evidence: Path) -> None:
    page = fill(block(head, "old\n"), evidence)
    shown = [line for line in lines(page) if "---" not in line]
    assert shown == ["before", f"<!-- evidence: {head} -->", *table, "<!-- end -->", "after"]
    assert fill(page, evidence) == page


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (block("nothing"), "there is no evidence nothing"),
        (block("plain view=round"), "unknown view 'round'; there are table, errors"),
        (block("plain rows=scores"), "rows=scores is none of"),
        (block("plain columns=beauty"), "unknown column 'beauty'; there are method, error"),
        (block("plain size=1"), "unknown option 'size'"),
        ("<!-- evidence: plain -->\nno end\n", "is not written as"),
    ],
)
def test_a_block_that_cannot_be_filled_is_told(text: str, words: str, evidence: Path) -> None:
    with pytest.raises(ValueError, match=words):
        fill(text, evidence)


def test_a_command_is_told_once_under_a_heading(evidence: Path) -> None:
    (evidence / "other.csv").write_text((evidence / "tail.csv").read_text())
    (evidence / "other.json").write_text((evidence / "tail.json").read_text())
    (evidence / "far.csv").write_text((evidence / "tail.csv").read_text())
    (evidence / "far.json").write_text('{"command": "run that"}')
    tables = block("tail") + block("other+far+tail") + block("far+tail") + "# Title\n"
    tables += block("other")
    origins = [line for line in lines(fill(tables, evidence)) if "(evidence/" in line]
    assert origins == [
        "`run it` (commit unknown; [tail.csv](evidence/tail.csv))",
        "`run that` (commit unknown; [far.csv](evidence/far.csv))",
        "By the command above: [other.csv](evidence/other.csv), [tail.csv](evidence/tail.csv).",
        "By the commands above: [far.csv](evidence/far.csv), [tail.csv](evidence/tail.csv).",
        "`run it` (commit unknown; [other.csv](evidence/other.csv))",
    ]


def test_pages_are_checked_and_made(evidence: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = evidence.parents[1]
    (root / "README.md").write_text(block("plain"))
    (root / "docs" / "page.md").write_text("no table\n")
    where = ["--root", str(root)]
    assert main([*where, "--check"]) == 1
    assert "README.md: differs from the evidence" in capsys.readouterr().out
    assert main(where) == 0
    assert main([*where, "--check"]) == 0
    assert write_pages([root / "README.md"], evidence) == []
    (root / "README.md").write_text(block("tail"))
    assert main(where) == 0
    assert "[tail.csv](docs/evidence/tail.csv)" in (root / "README.md").read_text()
    (root / "README.md").write_text(block("nothing"))
    assert main(where) == 2
    assert "README.md: there is no evidence nothing" in capsys.readouterr().err


def test_a_table_is_taken_with_its_origin(tmp_path: Path, evidence: Path) -> None:
    """No path of this machine comes along, and a row whose identity has changed is marked."""
    output = tmp_path / "results"
    cells = [
        Cell("none", TrainingConfig("digits", "cnn", NoMix(), seed=seed, meta_size=60))
        for seed in (1, 0)
    ]
    for cell in cells:
        CellStore(output).save(CellRecord(cell, "finished", result(), None, {}))
    folder = {**LINE, "dataset": f"folder:{tmp_path}/CIFAR10"}
    pd.DataFrame([LINE, BETA, folder]).to_csv(output / "table2.csv", index=False)
    command = f"metamixup table2 --dataset {folder['dataset']} --seeds 2"
    csv, origin = take(output / "table2.csv", "new", command, "", evidence)
    assert str(tmp_path) not in csv.read_text() + origin.read_text()
    assert "folder:CIFAR10" in csv.read_text()
    stated = json.loads(origin.read_text())
    assert stated["command"] == "metamixup table2 --dataset folder:CIFAR10 --seeds 2"
    assert list(stated["cells"]) == [cells[1].id]
    assert {"python", "torch", "metamixup-hpo"} <= set(stated["versions"])
    page = fill(block("new datasets=digits origin=no"), evidence)
    assert "earlier version" not in page
    stated["cells"] = {"none-digits-s0-00000000": next(iter(stated["cells"].values()))}
    origin.write_text(json.dumps(stated))
    page = fill(block("new datasets=digits origin=no"), evidence)
    assert "| No MixUp (of an earlier version)" in page
    assert "| MixUp †" in page
    with pytest.raises(ValueError, match="is no name"):
        take(output / "table2.csv", "../new", "metamixup table2", "", evidence)
    assert main(["--root", str(tmp_path), "--take", str(output / "table2.csv")]) == 2


def test_nothing_is_taken_where_a_training_cannot_be_read(
    tmp_path: Path, evidence: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The evidence of before stays, table and origin."""
    output = tmp_path / "results"
    cell = Cell("none", TrainingConfig("digits", "cnn", NoMix(), meta_size=60))
    store = CellStore(output)
    store.save(CellRecord(cell, "finished", result(), None, {}))
    pd.DataFrame([LINE]).to_csv(output / "table2.csv", index=False)
    command = ["--take", str(output / "table2.csv"), "--command", "metamixup table2"]
    where = ["--root", str(evidence.parents[1]), *command, "--name", "new"]
    assert main(where) == 0
    before = [(evidence / f"new.{kind}").read_bytes() for kind in ("csv", "json")]
    pd.DataFrame([BETA]).to_csv(output / "table2.csv", index=False)
    (store.directory(cell.id) / "result.json").write_text("{")
    capsys.readouterr()
    assert main(where) == 2
    assert capsys.readouterr().err.startswith("pages: error: ")
    assert [(evidence / f"new.{kind}").read_bytes() for kind in ("csv", "json")] == before


def test_a_row_that_would_train_otherwise_today_is_marked(tmp_path: Path, evidence: Path) -> None:
    """And of trainings under one name in one folder those of the study are taken."""
    output = tmp_path / "results"
    for seed, policy in enumerate([Beta(alpha=0.5), Beta(alpha=1.0)]):
        cell = Cell("beta", TrainingConfig("digits", "cnn", policy, seed=seed, meta_size=60))
        CellStore(output).save(CellRecord(cell, "finished", result(), None, {}))
    pd.DataFrame([LINE, {**BETA, "method": "beta"}]).to_csv(output / "table2.csv", index=False)
    shown = Row("beta", "Beta", "", "extra")
    rows = {
        "metamixup table2": {"beta": StudyRow(shown, Beta(alpha=1.0), {"meta_size": 60})},
        "later": {"beta": StudyRow(shown, Beta(alpha=2.0))},
        "smaller": {"beta": StudyRow(shown, Beta(alpha=1.0), {"meta_size": 50})},
    }
    where = (output / "table2.csv", "new", "metamixup table2", "", evidence)
    _, origin = take(*where, lambda command: rows[command])
    [cell] = json.loads(origin.read_text())["cells"].values()
    assert cell["training"]["policy"]["alpha"] == 1.0
    page = fill(block("new"), evidence, rows=lambda command: rows[command])
    assert "| MixUp †" in page
    for changed in ("later", "smaller"):
        page = fill(block("new"), evidence, rows=lambda command, to=changed: rows[to])
        assert "| MixUp (of an earlier version) †" in page
        assert "| No MixUp " in page


@pytest.mark.parametrize("file", ["table2.csv", "table2-controls.csv", "table2.md"])
def test_of_two_presets_in_a_folder_the_tables_trainings_are_taken(
    tmp_path: Path, evidence: Path, file: str
) -> None:
    """Both have seed 0 with one error; and data sets that the table has not stay out."""
    output = tmp_path / "results"
    mine = []
    for dataset, epochs, errors in [
        ("digits", 10, [5.0, 9.0]),
        ("digits", 80, [5.0, 6.0, 7.0]),
        ("mnist", 80, [6.0]),
    ]:
        for seed, error in enumerate(errors):
            varied = {"seed": seed, "epochs": epochs, "meta_size": 60}
            cell = Cell("none", TrainingConfig(dataset, "cnn", NoMix(), **varied))
            record = CellRecord(cell, "finished", result(test_error=error), None, {})
            CellStore(output).save(record)
            mine += [cell.id] * (epochs == 80 and dataset == "digits")
    line = {**LINE, "n_seeds": 2, "mean_error": 6.5}  # of seeds 1 and 2: --first-seed 1
    pd.DataFrame([line]).to_csv(output / "table2.csv", index=False)
    (output / "table2.md").write_text("# table2\n")
    controls = {"dataset": "digits", "method": "none", "control": "placebo", "difference": 0.5}
    pd.DataFrame([controls]).to_csv(output / "table2-controls.csv", index=False)
    _, origin, *seeds = take(output / file, "new", "metamixup table2", "", evidence)
    taken = json.loads(origin.read_text())["cells"]
    assert list(taken) == mine[:1]
    assert [pd.read_csv(path)["seed"].tolist() for path in seeds] == [[1, 2]] * (
        file == "table2.csv"
    )


def test_what_each_training_gave_comes_with_its_table(tmp_path: Path, evidence: Path) -> None:
    """In the table's order, without those that failed; a page links to them."""
    output = tmp_path / "results"
    store = CellStore(output)
    dataset = f"folder:{tmp_path}/images"
    for method, policy, errors in [
        ("beta-1", Beta(alpha=1.0), [4.0, 5.5]),
        ("none", NoMix(), [6.0, 7.25, None]),
    ]:
        for seed, error in enumerate(errors):
            cell = Cell(method, TrainingConfig(dataset, "cnn", policy, seed=seed, meta_size=60))
            status: Status = "diverged" if error is None else "finished"
            gave = PartialResult.of([]) if error is None else result(test_error=error)
            store.save(CellRecord(cell, status, gave, None, {}))
    none = {**LINE, "dataset": dataset, "n_seeds": 2, "mean_error": 6.625}
    beta = {**BETA, "dataset": dataset, "method": "beta-1", "n_seeds": 2, "mean_error": 4.75}
    pd.DataFrame([none, beta]).to_csv(output / "table2.csv", index=False)
    where = (output / "table2.csv", "new", "metamixup table2", "", evidence)
    _, _, seeds = take(*where)
    lines = [line.split(",") for line in seeds.read_text().splitlines()]
    assert lines[0][:4] == ["dataset", "method", "seed", "test_error"]
    assert [line[:4] for line in lines[1:]] == [
        ["folder:images", "none", "0", "6.0"],
        ["folder:images", "none", "1", "7.25"],
        ["folder:images", "beta-1", "0", "4.0"],
        ["folder:images", "beta-1", "1", "5.5"],
    ]
    assert "[each training](evidence/new-seeds.csv))" in fill(block("new"), evidence)
    pd.DataFrame([{**none, "mean_error": 3.0}]).to_csv(output / "table2.csv", index=False)
    assert seeds not in take(*where)
    assert not seeds.exists()


@pytest.mark.parametrize("study", ["metamixup step-sizes", "python studies/step_sizes.py"])
def test_the_rows_of_a_commands_rows_are_known(study: str) -> None:
    assert rows_of(f"{study} --seeds 3")["scores"].policy == ScoresConfig()
    assert rows_of("make table2")["beta-1"].policy == Beta(alpha=1.0)
    assert rows_of("metamixup table2 --preset contest")["beta-0.2"].policy == Beta(alpha=0.2)
    for command in ("metamixup compare-runs results", "core.training.fit of each policy", "make"):
        assert rows_of(command) == {}


def test_what_a_study_says_of_its_figure_is_taken_as_it_is(tmp_path: Path, evidence: Path) -> None:
    output = tmp_path / "results"
    cell = Cell("none", TrainingConfig("digits", "cnn", NoMix(), meta_size=60))
    CellStore(output).save(CellRecord(cell, "finished", result(), None, {}))
    loss, claim = "## Loss\n\ndigits:\n\n| a | b |\n\n", "## Claim\n\n- holds (1.25).\n"
    said = f"# figure2\n\n![it](figure2.png)\n\n{loss}{claim}"
    (output / "figure2.md").write_text(said)
    where = ["--root", str(tmp_path), "--take", str(output / "figure2.md"), "--name", "loss"]
    assert main([*where, "--command", "metamixup figure2"]) == 0
    assert (evidence / "loss.txt").read_text() == said
    origin = json.loads((evidence / "loss.json").read_text())
    assert list(origin["cells"]) == [cell.id]
    shown = ["### Loss", "digits:", "| a | b |", "### Claim", "- holds (1.25)."]
    page = lines(fill(block("loss view=text"), evidence))
    assert page[2:-3] == shown
    assert page[-3].startswith("`metamixup figure2` (commit ")
    assert page[-3].endswith("[loss.txt](evidence/loss.txt))")
    alone = lines(fill(block("loss view=text section=loss"), evidence))
    assert alone[2:-3] == shown[1:3]
    with pytest.raises(ValueError, match=r"loss.txt has no section 'los'; there are .*, claim"):
        fill(block("loss view=text section=los"), evidence)
    origin["cells"] = {"none-digits-s0-00000000": origin["cells"][cell.id]}
    (evidence / "loss.json").write_text(json.dumps(origin))
    for options in ("view=text", "view=text section=loss"):
        assert "(Of an earlier version: none.)" in fill(block(f"loss {options}"), evidence)
