"""This module finds what a user names by `package.module:name`, and calls it.

Arguments of the user's own may follow: `package.module:name?size=32&root=/data`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any
from urllib.parse import unquote

__all__ = ["GIVEN", "called", "given", "imported", "named_arguments", "transform_of"]

GIVEN = "given:"
"""Names of objects that Python code gave start so; see `given`."""

_OBJECTS: dict[str, Callable[..., Any]] = {}


@contextmanager
def given(objects: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Lets names that start with GIVEN stand for these objects inside."""
    before = dict(_OBJECTS)
    _OBJECTS.update(objects)
    try:
        yield
    finally:
        _OBJECTS.clear()
        _OBJECTS.update(before)


def named_arguments(name: str) -> tuple[str, dict[str, Any]]:
    """Returns a name without its arguments, and these, read as Python literals or else as text.

    `%26` stands for &, as in an address.

    Examples:
        >>> named_arguments("mine:load?size=32&root=/data&gray=True")
        ('mine:load', {'size': 32, 'root': '/data', 'gray': True})

    Raises:
        ValueError: an argument has no name, or is given twice.
    """
    path, _, written = name.partition("?")
    arguments: dict[str, Any] = {}
    for part in written.split("&") if written else ():
        key, separator, text = part.partition("=")
        if not separator or not key.isidentifier():
            raise ValueError(f"{name}: {part!r} is no argument; write {path}?size=32&root=/data")
        if key in arguments:
            raise ValueError(f"{name}: {key} is given twice; give it once")
        arguments[key] = _value(unquote(text))
    return path, arguments


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def imported(name: str) -> Callable[..., Any]:
    """Returns the callable that `package.module:name` names, also in the current folder.

    Arguments in the name are bound to it.

    Raises:
        ValueError: there is no such module or name, importing it fails, it cannot be called, or
            does not take these arguments.
    """
    path, arguments = named_arguments(name)
    named = _OBJECTS.get(path) if path.startswith(GIVEN) else _named(path)
    if named is None:
        raise ValueError(
            f"{path} is an object that Python code gave; give it again: hpo.contrast(...)"
        )
    if not callable(named):
        raise ValueError(f"{path} is of type {type(named).__name__}; name a function or a class")
    taken = _taken(named)
    unknown = [] if taken is None else [key for key in arguments if key not in taken]
    if taken is not None and unknown:
        raise ValueError(f"{path} takes no {unknown[0]}; it takes {', '.join(taken) or 'nothing'}")
    return partial(named, **arguments) if arguments else named


def _named(path: str) -> Any:
    module_name, _, name = path.partition(":")
    if not (module_name and name):
        raise ValueError(f"{path!r} names nothing; write package.module:name")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # `python studies/table2.py` puts studies/ there alone
    try:
        thing: Any = _module(module_name)
        for part in name.split("."):
            thing = getattr(thing, part)
    except Exception as error:  # a user's module may raise anything
        raise ValueError(
            f"{path} cannot be imported: {type(error).__name__}: {_line(error)}; give "
            "package.module:name of an installed package or of a file in this folder"
        ) from error
    return thing


def _module(name: str) -> ModuleType:
    """Imports a module, also one that imports a torchvision whose operators cannot be loaded."""
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    importlib.import_module("core.data.torchvision_compat")
    return importlib.import_module(name)


def called(name: str, **arguments: Any) -> Any:
    """Returns what the callable gives for those of the arguments that its signature takes.

    Arguments in the name, or bound to it by `functools.partial`, go before these.

    Raises:
        ValueError: it cannot be imported, raises, returns None, or changes for everybody how torch
            computes, which is as before afterwards.
    """
    factory = imported(name)
    path, _ = named_arguments(name)
    bound = factory.keywords if isinstance(factory, partial) else {}
    taken = _taken(factory)
    arguments = {
        key: value
        for key, value in arguments.items()
        if key not in bound and (taken is None or key in taken)
    }
    try:
        with _alone(path):
            result = factory(**arguments)
    except _EverybodyError:
        raise
    except Exception as error:  # as many kinds as users write
        listed = ", ".join(
            f"{key}={value}" if isinstance(value, (int, float, str)) else key
            for key, value in {**bound, **arguments}.items()
        )
        raise ValueError(
            f"{path}({listed}) raised {type(error).__name__}: {_line(error)}; mend the factory"
        ) from error
    if result is None:
        raise ValueError(f"{path} returned None; does it lack a return statement?")
    return result


class _EverybodyError(ValueError):
    """A callable changed what is not its own."""


@contextmanager
def _alone(path: str) -> Iterator[None]:
    """Raises _EverybodyError where torch computes otherwise after the block, and undoes that."""
    import torch

    def state() -> tuple[torch.dtype, int, bool]:
        return torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()

    before = state()
    try:
        yield
    finally:
        after = state()
        if after != before:
            torch.set_default_dtype(before[0])
            torch.set_num_threads(before[1])
            torch.set_grad_enabled(before[2])
    if after != before:
        raise _EverybodyError(
            f"{path} changes torch's default dtype, threads or gradient mode for everybody "
            f"({before} became {after}); have it leave them alone"
        )


def transform_of(name: str) -> Callable[..., Any]:
    """Returns the callable on a batch that is named; of a class an instance of it is.

    Raises:
        ValueError: as `called`, or the instance cannot be called.
    """
    named = imported(name)
    if not inspect.isclass(getattr(named, "func", named)):
        return named
    made = called(name)
    if not callable(made):
        raise ValueError(f"{name} makes a {type(made).__name__}, which cannot be called on a batch")
    return made


def _taken(factory: Callable[..., Any]) -> tuple[str, ...] | None:
    """Returns the names of the arguments that a callable takes; None where it takes any."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # of some builtins nobody knows
        return None
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return None
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return tuple(p.name for p in parameters if p.kind in kinds)


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")
