"""What is imported when it is first used: a package's names, and the libraries that take seconds.

A study's flags are read, and its mistakes told, without PyTorch. Two things make that so. A package
says under `if TYPE_CHECKING:` where its names are, and `lazily` imports a name's home when somebody
asks for it. And modules that are read with the flags take `torch` and `pandas` from here.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as numpy
    import pandas as pandas
    import torch as torch
    import torch.nn.functional as functional


class _Late(ModuleType):
    """A module that is imported when the first of its names is read.

    It then gives its place in the modules of this project to the module itself, so that reading a
    name costs what it costs there, and sees what is replaced there.
    """

    def __getattr__(self, name: str) -> Any:
        if name == "_module":
            self._module = import_module(self.__name__)
            self._give_way()
            return self._module
        if name.startswith("__"):  # those who look at modules ask for them
            raise AttributeError(name)
        return getattr(self._module, name)

    def _give_way(self) -> None:
        for holder, module in list(sys.modules.items()):
            if holder.partition(".")[0] in _PROJECT:
                held = [name for name, value in list(vars(module).items()) if value is self]
                vars(module).update(dict.fromkeys(held, self._module))


_PROJECT = ("core", "hpo", "studies")


if not TYPE_CHECKING:
    numpy, pandas, torch = _Late("numpy"), _Late("pandas"), _Late("torch")
    functional = _Late("torch.nn.functional")


def lazily(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns `__getattr__` and `__dir__` of a package whose names are imported on first use.

    Where the names of its `__all__` are is read off the imports in its own source, those that only
    type checkers follow. Its submodules are found as well.

    Args:
        package: its `__name__`; called while it is being imported, after `__all__`.
    """
    module = sys.modules[package]

    @cache
    def homes() -> dict[str, str]:
        spec = module.__spec__
        source = getattr(spec.loader if spec else None, "get_source", lambda name: None)(package)
        return {
            alias.name: node.module
            for node in ast.walk(ast.parse(source or ""))
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
            if alias.name in module.__all__
        }

    def find(name: str) -> Any:
        if name in module.__all__ and name in homes():
            value = getattr(import_module(homes()[name]), name)
        elif not name.startswith("_") and find_spec(f"{package}.{name}"):
            value = import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(module, name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(module), *module.__all__})

    return find, names
