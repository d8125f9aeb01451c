"""Libraries that `core` needs for a few data sets alone."""

from __future__ import annotations

import importlib
from types import ModuleType


def part_of_hpo(module: str, what_for: str) -> ModuleType:
    """Returns a module of a library that is installed with the extra `hpo`.

    Raises:
        ImportError: it is not installed; the line says what is.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{what_for} needs {module.partition('.')[0]}, which is not installed: "
            "pip install 'metamixup-hpo[hpo]'"
        ) from error
