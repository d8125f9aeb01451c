"""This module finds what a user names by `package.module:name`, and calls it."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["called", "imported"]


def imported(path: str) -> Callable[..., Any]:
    """Returns the callable that `package.module:name` names, also in the current folder.

    Raises:
        ValueError: there is no such module or name, importing it fails, or it cannot be called.
    """
    module_name, _, name = path.partition(":")
    if not (module_name and name):
        raise ValueError(f"{path!r} names nothing; write package.module:name")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # `python studies/table2.py` puts studies/ there alone
    try:
        found: Any = _module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # a user's module may raise anything
        raise ValueError(
            f"{path} cannot be imported: {type(error).__name__}: {_line(error)}; give "
            "package.module:name of an installed package or of a file in this folder"
        ) from error
    if not callable(found):
        raise ValueError(f"{path} is of type {type(found).__name__}; name a function or a class")
    return found


def _module(name: str) -> ModuleType:
    """Imports a module, also one that imports a torchvision whose operators cannot be loaded."""
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    importlib.import_module("core.data.torchvision_compat")
    return importlib.import_module(name)


def called(path: str, **arguments: Any) -> Any:
    """Returns what the callable gives for those of the arguments that its signature takes.

    Raises:
        ValueError: it cannot be imported, raises, or returns None.
    """
    factory = imported(path)
    try:
        given = inspect.signature(factory).parameters.values()
        if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in given):
            names = {p.name for p in given if p.kind is not inspect.Parameter.POSITIONAL_ONLY}
            arguments = {name: value for name, value in arguments.items() if name in names}
        result = factory(**arguments)
    except Exception as error:  # as many kinds as users write
        told = ", ".join(
            f"{name}={value}" if isinstance(value, (int, float, str)) else name
            for name, value in arguments.items()
        )
        raise ValueError(
            f"{path}({told}) raised {type(error).__name__}: {_line(error)}; mend the factory"
        ) from error
    if result is None:
        raise ValueError(f"{path} returned None; does it lack a return statement?")
    return result


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")
