"""What pip installs: the parts, what each needs, and a wheel that works far from the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import core
from tests.support.scripts import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
MODULES = {"scikit-learn": "sklearn", "markdown-it-py": "markdown_it"}
WITHOUT_RAY = """
import sys
import core
from hpo.cluster import here, runner
from studies.__main__ import main
print(core.__file__)
runner.run_on_ray = here.run_here
sys.exit(main(sys.argv[1:]) or main(["compare-runs", "results"]))
"""
LEFT_OUT = (
    "__pycache__",
    ".git",
    ".venv",
    ".ends",
    "results",
    "*.egg-info",
    "build",
    "dist",
    "site",
)


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=;~! ]", requirement)[0] for requirement in requirements}


def python(*arguments: str, cwd: Path, path: Path, code: int = 0) -> str:
    """Returns what an interpreter says that takes the packages from ``path``."""
    run = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == code, run.stderr
    assert "Traceback" not in run.stderr
    return run.stdout + run.stderr


def without_hpo(program: str, cwd: Path, code: int = 0) -> str:
    """Returns what a program says where nothing of the extra `hpo` is installed."""
    hidden = [MODULES.get(name, name) for name in names(EXTRAS["hpo"])]
    hide = f"import sys; sys.modules |= dict.fromkeys({hidden!r})"
    return python("-c", f"{hide}\n{program}", cwd=cwd, path=ROOT, code=code)


def test_each_extra_has_what_the_parts_import() -> None:
    import hpo

    needed = {MODULES.get(name, name) for name in names(EXTRAS["hpo"])} - {"pyarrow"}
    assert set(hpo._NEEDED) == needed
    users = {"hpo", "examples", "label-errors", "cluster", "server"}
    assert EXTRAS["all"] == [f"metamixup-hpo[{','.join(e for e in EXTRAS if e in users)}]"]
    assert {*users, "all", "dev", "docs", "peers"} == set(EXTRAS)
    assert all("metamixup-hpo" in names(EXTRAS[e]) for e in EXTRAS if e != "hpo")


def test_core_works_without_the_bench(tmp_path: Path) -> None:
    """The loop of the README with nothing but `core`'s own requirements."""
    program = """
import core, torch
model = torch.nn.Linear(3, 2)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
batch = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
print(core.metamixup_step(model, optimizer, batch, batch).lam.shape)
from core.data import load_source
try:
    load_source("digits", root=None, image_size=None)
except ImportError as error:
    print(error)
"""
    printed = without_hpo(program, tmp_path)
    assert "torch.Size([4])" in printed
    assert "the data set digits needs sklearn, which is not installed: pip install " in printed


def test_a_missing_part_names_the_extra(tmp_path: Path) -> None:
    text = without_hpo("try:\n    import hpo\nexcept ImportError as e: print(e)", tmp_path)
    assert re.fullmatch(r"hpo needs ray, optuna, .*: pip install 'metamixup-hpo\[hpo\]' .*\n", text)
    command = "from studies.__main__ import main; sys.exit(main(['table2']))"
    assert re.fullmatch(r"metamixup: error: hpo needs ray.*\n", without_hpo(command, tmp_path, 2))


def test_every_file_says_the_same_version() -> None:
    assert PROJECT["dynamic"] == ["version"]
    launchers = ROOT / "hpo/cluster/launchers"
    files = dict.fromkeys(launchers.iterdir(), r"metamixup-hpo:(\S+)")
    files[ROOT / "CITATION.cff"] = r"(?m)^version: (\S+)"
    stated = {path.name: {*re.findall(form, path.read_text())} for path, form in files.items()}
    assert {name: versions for name, versions in stated.items() if versions} == {
        name: {core.__version__} for name in ("Dockerfile", "kuberay.yaml", "CITATION.cff")
    }
    assert f"## {core.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with the sdist, and the wheel that is built from what the sdist holds."""
    place = tmp_path_factory.mktemp("built")
    checkout = shutil.copytree(ROOT, place / "checkout", ignore=shutil.ignore_patterns(*LEFT_OUT))
    backend = "import setuptools.build_meta as b; b.build_{}({!r})"
    sources = place / "sources"
    python("-c", backend.format("sdist", str(place)), cwd=checkout, path=checkout)
    with tarfile.open(next(place.glob("*.tar.gz"))) as archive:
        archive.extractall(sources, **({"filter": "data"} if sys.version_info >= (3, 12) else {}))
    unpacked = next(sources.iterdir())
    python("-c", backend.format("wheel", str(place)), cwd=unpacked, path=unpacked)
    return place


@pytest.mark.slow
def test_the_source_archive_has_what_make_and_the_tests_need(built: Path) -> None:
    root = next((built / "sources").iterdir())
    for name in ("Makefile", "constraints.txt", "CITATION.cff", ".ci/run", "mlflow/server.sh"):
        assert (root / name).is_file(), name
    for folder in ("core", "hpo", "studies", "tests", "docs"):
        wanted = {p.relative_to(ROOT) for p in (ROOT / folder).rglob("*") if p.is_file()}
        wanted = {p for p in wanted if not {"__pycache__", "site"} & set(p.parts)}
        assert not [str(p) for p in sorted(wanted) if not (root / p).exists()]


@pytest.mark.slow
def test_the_wheel_works_far_from_the_checkout(built: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    assert {p.name for p in site.iterdir() if "-info" not in p.name} == {"core", "hpo", "studies"}
    assert {"py.typed", "cluster"} <= {p.name for p in (site / "hpo").iterdir()}
    info = next(site.glob("*.dist-info"))
    assert "metamixup = studies.__main__:main" in (info / "entry_points.txt").read_text()
    assert f"\nVersion: {core.__version__}\n" in (info / "METADATA").read_text()
    home = tmp_path / "home"
    home.mkdir()
    # Its trainings run in this process: Ray sends the code to workers, which `tests/system` shows.
    flags = ["--dataset", "digits", "--preset", "smoke", "--seeds", "1", "--rows", "none"]
    printed = python("-c", WITHOUT_RAY, "table2", *flags, cwd=home, path=site)
    assert printed.startswith(str(site))
    assert "No MixUp" in printed
    assert "none (reference)" in printed
    python("-m", "studies", "open", "--no-browser", cwd=home, path=site)
    assert "No MixUp" in (home / "results/index.html").read_text()
