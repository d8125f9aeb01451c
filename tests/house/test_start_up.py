"""What loads when: a study's flags are read without PyTorch, and lazy packages act as others do."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest
import torch

import core
from core import lazy
from core.mixing import batch
from studies.__main__ import commands
from tests.support.scripts import ROOT

HEAVY = {"torch", "torchvision", "pandas", "scipy", "sklearn", "matplotlib", "ray", "mlflow",
         "optuna"}  # fmt: skip
NAMES = ["core", "hpo", *(f"core.{m.name}" for m in pkgutil.iter_modules(core.__path__) if m.ispkg)]
LAZY = [m for m in map(importlib.import_module, NAMES) if "__getattr__" in vars(m)]


def test_no_help_and_no_wrong_flag_loads_what_takes_seconds() -> None:
    """In one process: what one command loads would be the next one's too."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in commands().values()
    ]
    script = f"""
import contextlib, importlib, io, sys
from studies.__main__ import main
main(["--help"])
for name in {modules!r}:
    command = importlib.import_module(name)
    for flag, told, status in (("--help", "usage:", 0), ("--no-such-flag", "error: ", 2)):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                command.main([flag])
            except SystemExit as ended:
                assert ended.code == status, (name, flag)
        assert told in said.getvalue(), (name, flag)
        assert not {HEAVY!r} & set(sys.modules), (name, flag, {HEAVY!r} & set(sys.modules))
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert {"studies.table2", "studies.cost", "studies.commands.open"} <= set(modules)


def test_the_lazy_packages_are_those_that_say_so() -> None:
    assert {"core", "core.policies", "core.data", "core.models", "hpo"} <= {
        package.__name__ for package in LAZY
    }


@pytest.mark.parametrize("package", LAZY, ids=lambda package: package.__name__)
def test_a_lazy_package_has_its_names(package: ModuleType) -> None:
    assert set(package.__all__) <= set(dir(package))
    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'no'"):
        package.no  # noqa: B018
    # Python binds a submodule to its name in the package: a name of both would be either.
    assert not {m.name for m in pkgutil.iter_modules(package.__path__)} & set(package.__all__)


def test_submodules_are_found_and_all_policies_known_whatever_was_imported() -> None:
    """In a fresh process that imports neither otherwise."""
    script = """
import sys
from core.policies.config import policy_kinds
print(*policy_kinds())
import core
assert not {"core.testing", "core.data"} & set(sys.modules)
print(core.testing.__name__, core.data.DATASETS["digits"].num_classes)
"""
    said = subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True)
    kinds, found = said.splitlines()
    expected = {"none", "learned", "scores", "learned-beta", "adamixup", "l2rw", "frozen"}
    assert expected <= set(kinds.split())
    assert found == "core.testing 10"


def test_a_library_that_was_imported_late_stands_in_its_own_place() -> None:
    """Reading a name costs what it costs there, and what is replaced there is seen."""
    assert lazy.torch.float32 is torch.float32
    assert lazy.torch is batch.torch is torch
