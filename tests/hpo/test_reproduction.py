"""Parts run, fail and are reported, with studies that the tests make up."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from hpo.reproduction import (
    INTERRUPTED,
    Part,
    State,
    Study,
    read_states,
    run_parts,
    write_report,
)
from hpo.storage.output_folder import locked

GOOD = Part("good", "Table I: good", "It is good.", ("digits",))
BAD = Part("bad", "Figure 2: bad", "It is bad.", ("digits",), "", ("--labels", "7"), "own")
LAST = Part("last", "Figure 3: last", "It is last.", ("digits",))
PARTS = (GOOD, BAD, LAST)


def leaves(output: Path, *names: str) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = output / name
        if path.suffix == ".png":
            path.write_bytes(b"picture " + name.encode())
        else:
            path.write_text(f"# {path.stem}\n\nPreset `quick`.\n\n## digits\n\n| a |\n| --- |\n")


def run(output: Path, bad: Study) -> tuple[dict[str, State], list[tuple[str, list[str]]]]:
    """Returns all parts, the second one as given; the states, and what was called with which
    flags."""
    calls: list[tuple[str, list[str]]] = []

    def studies(part: Part) -> Study:
        def study(arguments: Sequence[str]) -> int:
            calls.append((part.key, list(arguments)))
            if part is BAD:
                return bad(arguments)
            leaves(output / part.folder, f"{part.study}.md", f"{part.study}.png")
            return 0

        return study

    return run_parts(PARTS, studies, lambda part: ["--x", *part.flags], output, "quick"), calls


def ends_with(end: int | BaseException) -> Study:
    """Returns a study that prints an error and ends so: with a status, or by raising."""

    def study(arguments: Sequence[str]) -> int:
        print("warming up\nbad: error: no such data\nlater", file=sys.stderr)
        if isinstance(end, BaseException):
            raise end
        return end

    return study


def test_each_part_gets_its_flags_and_its_folder(tmp_path: Path) -> None:
    ended, calls = run(tmp_path, lambda arguments: 0)
    assert calls == [
        ("good", ["--x", "--output", str(tmp_path)]),
        ("bad", ["--x", "--labels", "7", "--output", str(tmp_path / "own")]),
        ("last", ["--x", "--output", str(tmp_path)]),
    ]
    assert [state.status for state in ended.values()] == [0, 0, 0]
    assert read_states(tmp_path) == ended
    assert all(state.preset == "quick" and state.seconds >= 0 for state in ended.values())


@pytest.mark.parametrize(
    ("end", "status", "error"),
    [
        (2, 2, "no such data"),
        (1, 1, "no such data"),
        (0, 0, ""),
        (RuntimeError("broken"), 1, "RuntimeError: broken"),
        (SystemExit(2), 2, "no such data"),
        (SystemExit("gone"), 1, "no such data"),
    ],
)
def test_a_part_that_fails_is_told_and_the_rest_goes_on(
    end: int | BaseException,
    status: int,
    error: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stderr = sys.stderr
    ended, calls = run(tmp_path, ends_with(end))
    assert [key for key, _ in calls] == ["good", "bad", "last"]
    assert (ended["bad"].status, ended["bad"].error) == (status, error)
    assert ended["last"].status == 0
    assert sys.stderr is stderr
    shown = capsys.readouterr().err
    if error:
        assert error in shown


@pytest.mark.parametrize("end", [KeyboardInterrupt(), INTERRUPTED])
def test_an_interrupt_ends_it_and_keeps_what_is_done(
    end: int | BaseException, tmp_path: Path
) -> None:
    ended, calls = run(tmp_path, ends_with(end))
    assert [key for key, _ in calls] == ["good", "bad"]
    assert ended["bad"].status == INTERRUPTED
    assert list(read_states(tmp_path)) == ["good"]


def test_states_of_another_run_are_kept(tmp_path: Path) -> None:
    run(tmp_path, ends_with(2))
    ended = run_parts([LAST], lambda part: lambda arguments: 0, lambda part: [], tmp_path, "smoke")
    assert list(ended) == ["last"]
    states = read_states(tmp_path)
    assert list(states) == ["good", "bad", "last"]
    assert (states["last"].preset, states["good"].preset) == ("smoke", "quick")


def test_a_second_run_in_the_folder_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    run_parts([LAST], lambda part: lambda arguments: 0, lambda part: [], tmp_path, "quick")
    before = (tmp_path / "reproduction.json").read_bytes()
    refused: list[str] = []

    def again(arguments: Sequence[str]) -> int:
        with pytest.raises(BlockingIOError) as caught:
            run_parts([LAST], lambda part: ends_with(2), lambda part: [], tmp_path, "smoke")
        refused.append(str(caught.value))
        assert (tmp_path / "reproduction.json").read_bytes() == before
        with locked(tmp_path):  # the studies hold the folder in turn
            return 0

    ended = run_parts([GOOD], lambda part: again, lambda part: [], tmp_path, "quick")
    assert ended["good"].status == 0
    assert refused == [
        f"another reproduce (process {os.getpid()}) is running on {tmp_path}; wait for it or "
        "choose another output folder"
    ]
    assert list(read_states(tmp_path)) == ["last", "good"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    for text in ("{", '{"a": {"no": 1}}', "[1]"):
        (tmp_path / "reproduction.json").write_text(text)
        with pytest.raises(ValueError, match=r"reproduction\.json is not readable"):
            read_states(tmp_path)


def test_the_report_has_every_text_and_picture(tmp_path: Path) -> None:
    leaves(
        tmp_path, "good.md", "good.png", "good-more.png", "good-errors.md", "other.md", "goods.png"
    )
    leaves(tmp_path / "own", "bad.png")
    states = {"good": State(0, 61.0, "quick", ""), "bad": State(1, 2.0, "quick", "a | broke")}
    (tmp_path / "reproduction.json").write_text(
        json.dumps({key: vars(state) for key, state in states.items()})
    )
    markdown, html = write_report(tmp_path, PARTS)
    text = markdown.read_text()
    lines = text.splitlines()
    assert "1 of 3 parts are done. **Failed: Figure 2: bad.**" in lines
    assert "| [Table I: good](#table-i-good) | quick | done | 1m01s |" in lines
    bad = "**failed** (status 1): a / broke"
    assert f"| [Figure 2: bad](#figure-2-bad) | quick | {bad} | 2s |" in lines
    assert "| [Figure 3: last](#figure-3-last) | – | not run | – |" in lines
    places = [text.index(part.title, text.index("## ")) for part in PARTS]
    assert places == sorted(places)
    good = text[text.index("## Table I") : text.index("## Figure 2")]
    assert "*The paper:* It is good." in good
    assert good.count("Preset `quick`.") == 1  # it stands in both texts
    assert "#### digits" in good  # below the part's own heading
    pictures = [line for line in good.splitlines() if line.startswith("![")]
    assert pictures == ["![good](good.png)", "![good-more](good-more.png)"]
    assert f"This part: {bad}." in text
    assert "![bad](own/bad.png)" in text
    assert "other" not in text
    page = html.read_text()
    assert page.count("data:image/png;base64,") == 3
    assert 'id="table-i-good"' in page
    assert 'href="#table-i-good"' in page


def test_a_part_from_before_and_one_that_left_nothing(tmp_path: Path) -> None:
    leaves(tmp_path, "good.md")
    run_parts([LAST], lambda part: lambda arguments: 0, lambda part: [], tmp_path, "quick")
    text = write_report(tmp_path, PARTS)[0].read_text()
    assert "| [Table I: good](#table-i-good) | – | from an earlier run | – |" in text
    assert "(#figure-3-last) | quick | left no files |" in text


def test_only_the_first_heading_goes_and_code_stays_as_it_is(tmp_path: Path) -> None:
    code = "```\n# comment\n\nb\n```\n\n```\nb\n```"
    (tmp_path / "good.md").write_text(f"# good\n\n# Again\n\n{code}\n\n## End\n")
    text = write_report(tmp_path, [GOOD])[0].read_text()
    assert text.endswith(f"### Again\n\n{code}\n\n#### End\n")
    assert "# good" not in text


def test_what_stands_in_a_figure_and_in_its_table_is_shown_once(tmp_path: Path) -> None:
    folder = tmp_path / BAD.folder
    leaves(folder, "bad.png", "bad-errors.png")
    figure = "## Loss\n\n| a |\n| --- |\n\nIt fell."
    (folder / "bad.md").write_text(f"# bad\n\n![bad](bad.png)\n\n{figure}\n")
    (folder / "bad-errors.md").write_text(f"# bad\n\n## digits\n\nerrors\n\nerrors\n\n{figure}\n")
    text = write_report(tmp_path, [BAD])[0].read_text()
    part = text[text.index("This part") :].split("\n\n")[1:]
    assert part == [
        "![bad](own/bad.png)",
        "#### Loss",
        "| a |\n| --- |",
        "It fell.",
        "#### digits",
        "errors",
        "errors",
        "![bad-errors](own/bad-errors.png)\n",
    ]
