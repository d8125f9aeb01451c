"""Who may import whom: folders stand in layers that import one way, and each tool has one home."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path for name in ("core", "hpo", "studies") for path in (ROOT / name).rglob("*.py"))

TOOLS = {"ray", "optuna", "optuna_integration", "mlflow", "lightning"}
FORBIDDEN = {
    "core": {"hpo", "studies", "tests", *TOOLS},
    "hpo": {"studies", "tests", "lightning"},
    "studies": {"tests", *TOOLS},
    # Pipelines of other people: their tools and `core`, nothing of the bench.
    "studies/examples": {"hpo", "studies", "tests", "optuna_integration", "mlflow"},
    # What they train is compared by `hpo.compare`.
    "studies/examples/compare": {"tests", "ray", "optuna", "optuna_integration", "mlflow"},
}
"""What the files of a folder, the innermost one named here, may not import at any depth."""

LAYERS = {
    "core": (
        "lazy",
        "random_streams",
        "models user_model",
        "mixing data",
        "meta evaluation",
        "metamixup",
        "policies",
        "semi_supervised analysis",
        "training",
        "testing",
        "__init__",
    ),
    "hpo": (
        "storage",
        "cells",
        "search tracking",
        "study",
        "command_line",
        "report cluster optuna_study complete_tracking",
        "analyses reproduction",
        "run",
        "bench",
        "__init__",
    ),
}
"""From the ground up. A folder or file imports from the layers below its own, and neither from its
neighbors nor from above."""

TOP_LEVEL = 16
"""The entries that one look can take in."""

TOOL_HOMES = {
    "ray": ("hpo/cluster/",),
    "optuna": ("hpo/search/", "hpo/optuna_study.py"),
    "mlflow": ("hpo/tracking/",),
}
"""The only places of `hpo` that import a tool."""

Arrow = tuple[tuple[str, ...], tuple[str, ...], str]
"""The importing module, the imported one, and the place of the import."""


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, at any depth of the file; none may be relative."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import in line {node.lineno}"
            yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(root: Path, name: str) -> tuple[str, ...] | None:
    """Returns the module that an imported name belongs to: ("core", "mixing", "batch"), and for
    a name of a package ("core", "mixing", "__init__")."""
    parts = tuple(name.split("."))
    while parts:
        path = root.joinpath(*parts)
        if path.with_suffix(".py").is_file():
            return parts
        if (path / "__init__.py").is_file():
            return (*parts, "__init__")
        parts = parts[:-1]
    return None


def arrows(root: Path, package: str) -> Iterator[Arrow]:
    """Every import of one module of the package by another."""
    for path in sorted((root / package).rglob("*.py")):
        file = path.relative_to(root)
        source = file.with_suffix("").parts
        for line, name in imports(path):
            target = module_of(root, name) if name.partition(".")[0] == package else None
            if target is not None and target != source:
                yield source, target, f"{file.as_posix()}:{line} imports {name}"


def upward(imported: Iterable[Arrow], layers: tuple[str, ...]) -> list[str]:
    """Places of imports from the same layer or one above."""
    floor = {entry: height for height, layer in enumerate(layers) for entry in layer.split()}
    return [
        place
        for source, target, place in imported
        if source[1] != target[1] and floor[source[1]] <= floor[target[1]]
    ]


def circle(imported: Iterable[Arrow]) -> list[str]:
    """Returns a circle between the entries of one folder, as dotted names; empty where there is
    none."""
    graphs: dict[str, graphlib.TopologicalSorter[str]] = defaultdict(graphlib.TopologicalSorter)
    for source, target, _ in imported:
        shared = next(i for i, (a, b) in enumerate(zip(source, target, strict=False)) if a != b)
        folder = ".".join(source[:shared])
        graphs[folder].add(f"{folder}.{source[shared]}", f"{folder}.{target[shared]}")
    for graph in graphs.values():
        try:
            graph.prepare()
        except graphlib.CycleError as error:
            return list(error.args[1])
    return []


def forbidden(file: str) -> set[str]:
    """Returns what the file of this name may not import."""
    return FORBIDDEN[max((p for p in FORBIDDEN if file.startswith(f"{p}/")), key=len)]


def packages_of(path: Path) -> set[str]:
    """Returns the top-level packages that a file imports."""
    return {name.partition(".")[0] for _, name in imports(path)}


def test_imports_flow_one_way() -> None:
    wrong = {named(path): packages_of(path) & forbidden(named(path)) for path in FILES}
    assert {file: packages for file, packages in wrong.items() if packages} == {}


def test_examples_alone_may_import_the_tools_and_nothing_of_the_bench() -> None:
    inside, apart = "studies/examples/", "studies/examples/compare/"
    examples = [p for p in FILES if named(p).startswith(inside) and not named(p).startswith(apart)]
    used = set().union(*map(packages_of, examples))
    assert {"core", "optuna", "ray", "lightning"} <= used
    assert not used & {"hpo", "studies", "mlflow"}
    assert {"hpo", "mlflow"} <= forbidden("studies/examples/deeper/any.py")
    for file in ("studies/any.py", "core/models/any.py"):
        assert forbidden(file) >= TOOLS
    assert "lightning" in forbidden("hpo/any.py")


@pytest.fixture(scope="module")
def loaded() -> tuple[set[str], set[str]]:
    """Returns what a fresh process loads for a loop, and then for every file of `core`."""
    files = [path.relative_to(ROOT) for path in FILES if named(path).startswith("core/")]
    modules = [".".join(f.with_suffix("").parts).removesuffix(".__init__") for f in files]
    script = f"""
import importlib, sys, core
core.metamixup_step
print(*sys.modules)
for name in {modules!r}:
    importlib.import_module(name)
print(*sys.modules)
"""
    said = subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True)
    loop, every = (set(line.split()) for line in said.splitlines())
    return loop, every


def test_core_loads_neither_the_tools_nor_the_rest_of_the_house(
    loaded: tuple[set[str], set[str]],
) -> None:
    packages = {name.partition(".")[0] for name in loaded[1]}
    assert {"core", "torch"} <= packages
    assert not packages & (FORBIDDEN["core"] - {"tests"})


def test_a_loop_loads_no_data_sets_and_no_networks_of_ours(
    loaded: tuple[set[str], set[str]],
) -> None:
    """What `import core` takes beside torch is kept small."""
    heavy = {"PIL", "torchvision", "core.data", "core.models", "core.training", "core.analysis"}
    assert "core.metamixup" in loaded[0]
    assert not heavy & loaded[0]
    assert heavy <= loaded[1]


@pytest.mark.parametrize("package", LAYERS)
def test_the_top_level_is_small_and_every_entry_has_its_layer(package: str) -> None:
    entries = {path.stem for path in (ROOT / package).iterdir() if path.name != "__pycache__"}
    assert len(entries) <= TOP_LEVEL
    assert entries - {"py"} <= set(" ".join(LAYERS[package]).split())


@pytest.mark.parametrize("package", LAYERS)
def test_no_import_runs_up_or_in_a_circle(package: str) -> None:
    assert upward(arrows(ROOT, package), LAYERS[package]) == []
    assert circle(arrows(ROOT, package)) == []


@pytest.mark.parametrize("package", LAYERS)
def test_contributors_read_of_these_layers(package: str) -> None:
    text = " ".join((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split())
    layers = [f"`{layer}`" for layer in LAYERS[package] if layer != "__init__"]
    assert f"- `{package}`: {' · '.join(layers)}" in text


def test_analyses_are_islands() -> None:
    bridges = [
        place
        for source, target, place in arrows(ROOT, "hpo")
        if source[1] == target[1] == "analyses" and source[2] != target[2]
    ]
    assert bridges == []


@pytest.mark.parametrize("tool", TOOL_HOMES)
def test_each_tool_has_one_home(tool: str) -> None:
    users = [named(path) for path in FILES if tool in packages_of(path)]
    ours = [file for file in users if file.startswith("hpo/")]
    assert [file for file in ours if not file.startswith(TOOL_HOMES[tool])] == []
    assert ours


def test_a_back_arrow_and_a_circle_are_found(tmp_path: Path) -> None:
    files = {
        "a/__init__.py": "",
        "a/low/__init__.py": "",
        "a/low/one.py": "def f():\n    from a.high import two",
        "a/low/deep/__init__.py": "",
        "a/low/deep/three.py": "from a.low.four import x",
        "a/low/four.py": "x = 1\nimport a.low.deep.three",
        "a/high/__init__.py": "",
        "a/high/two.py": "from a.low.one import f",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert upward(arrows(tmp_path, "a"), ("low", "high")) == ["a/low/one.py:2 imports a.high.two"]
    assert upward(arrows(tmp_path, "a"), ("high", "low")) == ["a/high/two.py:1 imports a.low.one.f"]
    (tmp_path / "a/low/one.py").write_text("")
    assert sorted(circle(arrows(tmp_path, "a"))) == ["a.low.deep", "a.low.deep", "a.low.four"]
    (tmp_path / "a/low/four.py").write_text("x = 1")
    assert circle(arrows(tmp_path, "a")) == []
