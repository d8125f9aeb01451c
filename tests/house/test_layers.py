"""How the house is built: who may import whom, what is a package, what every public name owes."""

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
TOOLS = {"ray", "optuna", "optuna_integration", "mlflow", "lightning"}
FORBIDDEN = {
    "core": {"hpo", "studies", "tests", *TOOLS},
    "hpo": {"studies", "tests", "lightning"},
    "studies": {"tests", *TOOLS},
    # Pipelines of other people: their tools and `core`, nothing of the bench.
    "studies/examples": {"hpo", "studies", "tests", "optuna_integration", "mlflow"},
}
"""What the files of a folder, the innermost one named here, may not import at any depth."""

FILES = sorted({path for package in FORBIDDEN for path in (ROOT / package).rglob("*.py")})
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in FILES
]
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home/(?!me\b)|root/|work/|tmp/)[\w.]")
"""A home of "me" is one that a test made up."""
TEXT = {".py", ".toml", ".md", ".txt", ".sh", ".cfg"}


def python(*arguments: str, cwd: Path = ROOT, path: str = "") -> str:
    """What a fresh interpreter prints."""
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


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every import, relative ones left out: they stay inside."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module is not None
            yield node.lineno, node.module.partition(".")[0]


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def forbidden(file: str) -> set[str]:
    """What the file of this name may not import."""
    return FORBIDDEN[max((p for p in FORBIDDEN if file.startswith(f"{p}/")), key=len)]


# ------------------------------------------------------------------------------- the one-way flow


@pytest.mark.parametrize("path", FILES, ids=named)
def test_imports_flow_one_way(path: Path) -> None:
    wrong = [(line, name) for line, name in imports(path) if name in forbidden(named(path))]
    assert not wrong, f"{named(path)} may not import {wrong}"


def test_examples_alone_may_import_the_tools_and_nothing_of_the_bench() -> None:
    examples = [path for path in FILES if named(path).startswith("studies/examples/")]
    used = {name for path in examples for _, name in imports(path)}
    assert {"core", "optuna", "ray", "lightning"} <= used
    assert not used & {"hpo", "studies", "mlflow"}
    assert {"hpo", "mlflow"} <= forbidden("studies/examples/deeper/any.py")
    for file in ("studies/any.py", "core/models/any.py"):
        assert forbidden(file) >= TOOLS
    assert "lightning" in forbidden("hpo/any.py")


def test_core_loads_neither_the_tools_nor_the_rest_of_the_house() -> None:
    core_modules = [name for name in MODULES if name.partition(".")[0] == "core"]
    script = f"""
import importlib, sys
for name in {core_modules!r}:
    importlib.import_module(name)
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""
    loaded = set(python("-c", script).split())
    assert {"core", "torch"} <= loaded
    assert not loaded & (FORBIDDEN["core"] - {"tests"})


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
    assert "version" in python("-m", "mlflow", "--version")


def test_no_path_of_a_machine() -> None:
    """Cluster files are left out: they name paths inside the containers that they start."""
    folders = ("core", "hpo", "studies", "mlflow", "tests", ".ci")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    read = [p for p in files if p.suffix in TEXT or p.name in ("Makefile", "run", ".gitignore")]
    assert ROOT / "pyproject.toml" in read
    assert ROOT / ".ci" / "run" in read
    found = [
        f"{named(path)}:{number}: {line.strip()}"
        for path in read
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not found


# ----------------------------------------------------------------------- what a public name owes


def public_definitions(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """Dotted names and nodes of public functions, classes and their public methods."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
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


@pytest.mark.parametrize(("path", "module"), [*zip(FILES, MODULES, strict=True)], ids=MODULES)
def test_every_public_name_has_a_docstring(path: Path, module: str) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    missing = [] if ast.get_docstring(tree) or not tree.body else ["the module itself"]
    for name, node in public_definitions(path):
        assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        own = ast.get_docstring(node)
        if not own and not inherited_docstring(importlib.import_module(module), name):
            missing.append(name)
    assert not missing, f"{named(path)}: no docstring: {missing}"


@pytest.mark.parametrize("name", MODULES)
def test_every_name_in_all_exists(name: str) -> None:
    module: Any = importlib.import_module(name)
    exported = getattr(module, "__all__", [])
    assert len(set(exported)) == len(exported)
    assert not [member for member in exported if not hasattr(module, member)]


def test_the_examples_in_docstrings_run() -> None:
    attempted = {}
    for path, name in zip(FILES, MODULES, strict=True):
        if ">>>" in path.read_text(encoding="utf-8"):
            outcome = doctest.testmod(importlib.import_module(name))
            assert outcome.failed == 0, name
            attempted[name] = outcome.attempted
    assert attempted["core.metamixup"] >= 6
    assert core.metamixup_step.__module__ == "core.metamixup"
