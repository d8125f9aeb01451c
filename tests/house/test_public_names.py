"""What is a package, what every public name owes, and what no file may contain."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import core

if sys.version_info >= (3, 11):
    import tomllib
else:  # comes with pytest there
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

ROOT = Path(__file__).parents[2]
FILES = sorted(path for name in ("core", "hpo", "studies") for path in (ROOT / name).rglob("*.py"))
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in FILES
]
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home/(?!me\b)|root/|work/|tmp/)[\w.]")
"""A home of "me" is one that a test made up."""
TEXT = {".py", ".toml", ".md", ".txt", ".sh", ".cfg"}


def python(*arguments: str, cwd: Path = ROOT, path: str = "") -> str:
    """Returns what a fresh interpreter prints."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    run = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**environment, **({"PYTHONPATH": path} if path else {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# --------------------------------------------------------------------------- packages and folders


def test_every_folder_with_code_is_a_package_that_is_installed() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        find = tomllib.load(file)["tool"]["setuptools"]["packages"]["find"]
    assert find == {"include": ["core*", "hpo*", "studies*"]}
    homeless = [named(path) for path in FILES if not (path.parent / "__init__.py").exists()]
    assert not homeless


def test_the_folder_mlflow_does_not_shadow_the_package() -> None:
    assert not list((ROOT / "mlflow").rglob("*.py"))
    import mlflow

    assert mlflow.__file__ is not None
    assert "site-packages" in Path(mlflow.__file__).parts
    find = "import importlib.util as u; print(u.find_spec('mlflow').origin)"
    for path in ("", str(ROOT)):
        assert "site-packages" in Path(python("-c", find, path=path).strip()).parts


def test_no_path_of_a_machine() -> None:
    """Cluster files are left out: they name paths inside the containers that they start."""
    folders = ("core", "hpo", "mlflow", "tests", ".ci")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    read = [p for p in files if p.suffix in TEXT or p.name in ("Makefile", "run", ".gitignore")]
    assert ROOT / "pyproject.toml" in read
    assert ROOT / ".ci" / "run" in read
    paths = [
        f"{named(path)}:{number}: {line.strip()}"
        for path in read
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not paths


# ----------------------------------------------------------------------- what a public name owes


FOLDERS = sorted({path.parent for path in FILES})
in_each_folder = pytest.mark.parametrize("folder", FOLDERS, ids=map(named, FOLDERS))


def modules_in(folder: Path) -> dict[Path, str]:
    """Returns the module of each file, those in its own folders left out."""
    found = {p: name for p, name in zip(FILES, MODULES, strict=True) if p.parent == folder}
    assert found
    return found


def public_definitions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Dotted names and nodes of public functions, classes and their public methods."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in tree.body:
        if not isinstance(node, kinds) or node.name.startswith("_"):
            continue
        yield node.name, node
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, kinds) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner


def inherited_docstring(module: ModuleType, name: str) -> str | None:
    """A method that overrides a documented one inherits its docstring; nothing else does."""
    owner, _, method = name.partition(".")
    return inspect.getdoc(getattr(getattr(module, owner), method)) if method else None


@in_each_folder
def test_every_public_name_has_a_docstring(folder: Path) -> None:
    missing = {}
    for path, module in modules_in(folder).items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        without = [] if ast.get_docstring(tree) or not tree.body else ["the module itself"]
        for name, node in public_definitions(tree):
            assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            if not ast.get_docstring(node) and not inherited_docstring(
                importlib.import_module(module), name
            ):
                without.append(name)
        missing[module] = without
    assert {module: names for module, names in missing.items() if names} == {}


@in_each_folder
def test_every_name_in_all_exists(folder: Path) -> None:
    for name in modules_in(folder).values():
        module: Any = importlib.import_module(name)
        exported = getattr(module, "__all__", [])
        assert len(set(exported)) == len(exported), name
        assert not [f"{name}.{member}" for member in exported if not hasattr(module, member)]


def test_every_package_says_what_it_offers() -> None:
    packages = [path for path in FILES if path.name == "__init__.py"]
    assert [named(path) for path in packages if "\n__all__" not in path.read_text("utf-8")] == []


def test_the_examples_in_docstrings_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # One of them registers a policy, which the tests after this one are not to find.
    known = importlib.import_module("core.policies.config")
    monkeypatch.setattr(known, "_REGISTERED", dict(known._REGISTERED))
    attempted = {}
    for path, name in zip(FILES, MODULES, strict=True):
        if ">>>" in path.read_text(encoding="utf-8"):
            outcome = doctest.testmod(importlib.import_module(name))
            assert outcome.failed == 0, name
            attempted[name] = outcome.attempted
    assert attempted["core.metamixup"] >= 6
    assert core.metamixup_step.__module__ == "core.metamixup"


WITH_PAGES = (
    *("core", "core.analysis", "core.data", "core.models", "core.policies"),
    *("core.semi_supervised", "core.testing", "core.training", "hpo"),
)


@pytest.mark.parametrize("package", WITH_PAGES)
def test_every_public_name_has_an_example(package: str) -> None:
    module = importlib.import_module(package)
    named = {name: getattr(module, name) for name in module.__all__}
    ours = {
        name: thing  # neither a constant nor a type of typing's
        for name, thing in named.items()
        if callable(thing) and thing.__module__.partition(".")[0] in ("core", "hpo")
    }
    assert len(ours) >= 2
    assert [n for n, thing in ours.items() if ">>>" not in (inspect.getdoc(thing) or "")] == []
