"""What make installs: for the interpreter and the versions that are asked for, and no others."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.scripts import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

# An interpreter that calls itself VERSION and installs nothing; FAIL makes its pip fail.
INTERPRETER = """#!/bin/sh
case "$1 $2" in
"-V "*) echo "Python {version}" ;;
"-c "*) exec {real} -c 'import sys; sys.version_info = tuple(map(int, "{version}".split(".")))
exec(sys.argv[1])' "$2" ;;
"-m venv")
    for last; do :; done
    [ "$3" != --clear ] || rm -rf "$last"
    mkdir -p "$last/bin" && cp "$0" "$last/bin/python" ;;
"-m pip") [ -z "$FAIL" ] ;;
*) echo "ran $*" ;;
esac
"""


class Checkout:
    def __init__(self, place: Path) -> None:
        self.place = place
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, place)

    def python(self, version: str) -> str:
        path = self.place / f"python{version}"
        path.write_text(INTERPRETER.format(version=version, real=sys.executable))
        path.chmod(0o755)
        return f"PYTHON={path}"

    def make(self, *arguments: str, fail: str = "") -> subprocess.CompletedProcess[str]:
        # Not what a make that runs the tests says to those below it.
        environment = {k: v for k, v in os.environ.items() if "MAKE" not in k}
        return subprocess.run(
            ["make", *arguments],
            cwd=self.place,
            env={**environment, "FAIL": fail},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_it_is_installed_once_and_anew_for_another_choice(checkout: Checkout) -> None:
    first, other = checkout.python("3.11.7"), checkout.python("3.12.1")
    done = checkout.make("table2", first)
    assert "ran studies/table2.py" in done.stdout
    assert "-c constraints.txt" in done.stdout
    leftover = checkout.place / ".venv/leftover"
    for choice in (
        [first, "CONSTRAINTS="],
        [first],
        [other],
        [other, "CONSTRAINTS=pyproject.toml"],
    ):
        leftover.touch()
        done = checkout.make("table2", *choice)
        assert "-m venv --clear" in done.stdout, choice
        assert "ran studies/table2.py" in done.stdout
        assert not leftover.exists()
        again = checkout.make("-n", "table2", *choice)
        assert "venv --clear" not in again.stdout, choice
        assert "pip" not in again.stdout
    python = checkout.place / ".venv/bin/python"
    assert subprocess.check_output([python, "-V"], text=True) == "Python 3.12.1\n"


def test_other_dependencies_are_installed_over_it(checkout: Checkout) -> None:
    python = checkout.python("3.11.7")
    checkout.make("install", python)
    stamp = checkout.place / ".venv/.installed"
    os.utime(stamp, (0, 0))
    done = checkout.make("install", python)
    assert "pip install" in done.stdout
    assert "--clear" not in done.stdout


@pytest.mark.parametrize(
    ("version", "more", "words"),
    [
        ("3.9.18", "CONSTRAINTS=", r"is Python 3\.9, and 3\.10 is the lowest.*PYTHON=python3\.11"),
        ("3.9.18", "JOBS=2", r"is Python 3\.9, and 3\.10 is the lowest.*PYTHON=python3\.11"),
        ("3.10.13", "JOBS=2", r"is Python 3\.10, and .*constraints\.txt need 3\.11.*CONSTRAINTS= "),
    ],
)
def test_an_unsuitable_interpreter_is_told_why(
    version: str, more: str, words: str, checkout: Checkout
) -> None:
    checkout.make("install", checkout.python("3.11.7"))
    done = checkout.make("install", checkout.python(version), more)
    assert done.returncode == 2
    line, _ = done.stderr.splitlines()  # the second is make's own
    assert re.search(words, line)
    assert (checkout.place / ".venv/.installed").exists(), "what was there stays"


def test_the_newest_are_installed_on_the_lowest_interpreter(checkout: Checkout) -> None:
    lowest = re.search(r'requires-python = ">=(\d+\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert lowest is not None
    assert (
        checkout.make("install", checkout.python(f"{lowest[1]}.0"), "CONSTRAINTS=").returncode == 0
    )


def test_what_pip_could_not_install_is_made_anew(checkout: Checkout) -> None:
    python = checkout.python("3.11.7")
    done = checkout.make("install", python, fail="yes")
    assert done.returncode == 2
    assert "pip could not install constraints.txt on Python 3.11.7" in done.stdout
    assert "-m venv --clear" in checkout.make("-n", "install", python).stdout


def test_clean_removes_what_was_built_and_no_results(checkout: Checkout) -> None:
    made = [".venv/x", ".ends/x", "build/x", "dist/x", "core/a/__pycache__/x", "m.egg-info/x"]
    for name in [*made, "results/x"]:
        path = checkout.place / name
        path.parent.mkdir(parents=True)
        path.touch()
    assert checkout.make("clean", checkout.python("3.11.7")).returncode == 0
    assert not any((checkout.place / name).exists() for name in made)
    assert (checkout.place / "results/x").exists()


def test_help_names_every_target_and_setting(checkout: Checkout) -> None:
    text = checkout.make("help").stdout
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)", makefile, re.MULTILINE)
    settings = re.findall(r"^(\w+) \?=", makefile, re.MULTILINE)
    assert targets is not None
    for name in [*targets[1].split()[1:], *settings]:
        assert re.search(rf"\b{name}\b", text), name
