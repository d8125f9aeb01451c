"""Flags that several commands have are written once, as parents of their parsers."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from core.data import DATASETS


def _gpus(text: str) -> float | str:
    """Returns a number, or the word that asks for a measurement."""
    return text if text == "auto" else float(text)


_COUNT = {"type": int, "metavar": "N"}

FLAGS: Mapping[str, Mapping[str, Any]] = {
    "dataset": {
        "action": "append",
        "metavar": "NAME",
        "help": f"repeatable; one of {', '.join(DATASETS)}, or folder:PATH (default: digits)",
    },
    "preset": {"default": "quick", "help": "default: %(default)s"},
    "seeds": {**_COUNT, "default": 3, "help": "trainings of each row (default: %(default)s)"},
    "epochs": {**_COUNT, "help": "overrides the preset"},
    "output": {
        "type": Path,
        "default": Path("results"),
        "metavar": "DIR",
        "help": "default: %(default)s",
    },
    "storage": {
        "metavar": "URI",
        "help": "results and checkpoints of the cells: PATH that all nodes share, or s3://, gs:// "
        "or abfs:// (default: DIR)",
    },
    "tracking_uri": {
        "metavar": "URI",
        "help": "MLflow store (default: MLFLOW_TRACKING_URI, else DIR/mlflow.db)",
    },
    "address": {"metavar": "ADDRESS", "help": "Ray cluster to join (default: this machine)"},
    "workers": {**_COUNT, "help": "cells at a time (default: what fits)"},
    "threads": {**_COUNT, "default": 1, "help": "CPU threads of a cell (default: 1)"},
    "device": {"default": "cpu", "choices": ("cpu", "cuda"), "help": "default: cpu"},
    "gpus_per_cell": {
        "type": _gpus,
        "metavar": "X|auto",
        "help": "may be a fraction; auto measures what a cell needs (default with cuda: 1)",
    },
    "data_root": {"type": Path, "metavar": "DIR", "help": "data sets in torchvision's layout"},
    "fresh": {"action": "store_true", "help": "train again what is finished in DIR"},
}
"""What argparse is told of each flag, by its name in the parsed result."""


def flag(name: str) -> str:
    """Returns the flag as users write it: "--data-root" of "data_root"."""
    return "--" + name.replace("_", "-")


def shared(*names: str, **changes: Mapping[str, Any]) -> ArgumentParser:
    """Returns a parent parser with some of FLAGS.

    Args:
        names: which, in the order of the help.
        changes: of further flags, or of those named, what this command has otherwise.

    Example:
        >>> shared("output", "seeds", seeds={"default": 5}).parse_args([]).seeds
        5
    """
    parent = ArgumentParser(add_help=False)
    for name in dict.fromkeys((*names, *changes)):
        parent.add_argument(flag(name), **{**FLAGS[name], **changes.get(name, {})})
    return parent


def command(prog: str, description: str | None, *parents: ArgumentParser) -> ArgumentParser:
    """Returns the parser of a command whose help shows its docstring as it is written."""
    return ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
        parents=parents,
    )


def require_counts(args: Namespace, *names: str) -> None:
    """Raises ValueError where one of these is given and below 1."""
    for name in names:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"{flag(name)} must be at least 1, got {value}")


def cores() -> int:
    """Returns how many processors this process may use."""
    usable = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(usable(0)) if usable is not None else os.cpu_count() or 1


def require_device(device: str, way_out: str = "use --device cpu") -> None:
    """Raises ValueError where the device is a GPU and there is none here."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device cuda: no CUDA device here; {way_out}")
