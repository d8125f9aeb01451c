"""Flags that several commands have are written once, as parents of their parsers."""

from __future__ import annotations

import os
import re
import sys
from argparse import (
    SUPPRESS,
    ArgumentParser,
    ArgumentTypeError,
    Namespace,
    RawDescriptionHelpFormatter,
)
from collections.abc import Mapping
from difflib import get_close_matches
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

from core.data import DATASETS
from core.lazy import torch


def _gpus(text: str) -> float | str:
    """Returns a number, or the word that asks for a measurement."""
    return text if text == "auto" else float(text)


_COUNT = {"type": int, "metavar": "N"}


def folder(text: str) -> Path:
    """Returns the folder; the type of a flag, which refuses the empty text of an unset variable."""
    if not text.strip():
        raise ArgumentTypeError("names no folder (it is empty)")
    return Path(text)


def place(text: str) -> str:
    """Returns the path or address; the type of a flag, as `folder` is."""
    if not text.strip():
        raise ArgumentTypeError("names no place (it is empty)")
    return text


FLAGS: Mapping[str, Mapping[str, Any]] = {
    "dataset": {
        "action": "append",
        "metavar": "NAME",
        "help": f"repeatable; one of {', '.join(DATASETS)}, folder:PATH, or "
        "package.module:factory (default: digits)",
    },
    "preset": {"default": "quick", "help": "default: %(default)s"},
    "seeds": {**_COUNT, "default": 3, "help": "trainings of each row (default: %(default)s)"},
    "first_seed": {**_COUNT, "default": 0, "help": "the others follow (default: %(default)s)"},
    "epochs": {**_COUNT, "help": "overrides the preset"},
    "output": {
        "type": folder,
        "default": Path("results"),
        "metavar": "DIR",
        "help": "default: %(default)s",
    },
    "storage": {
        "type": place,
        "metavar": "URI",
        "help": "results and checkpoints of the cells: PATH that all nodes share, or s3://, gs:// "
        "or abfs:// (default: DIR)",
    },
    "tracking_uri": {
        "type": place,
        "metavar": "URI",
        "help": "MLflow store (default: MLFLOW_TRACKING_URI, else DIR/mlflow.db)",
    },
    "address": {"metavar": "ADDRESS", "help": "Ray cluster to join (default: this machine)"},
    "workers": {**_COUNT, "help": "cells at a time (default: what fits)"},
    "threads": {**_COUNT, "default": 1, "help": "CPU threads of a cell (default: 1)"},
    "device": {
        "default": "auto",
        "choices": ("auto", "cpu", "cuda", "mps"),
        "help": "auto, the default, is the GPU of this machine where it has one, cuda before mps; "
        "with --address it is cpu",
    },
    "gpus_per_cell": {
        "type": _gpus,
        "metavar": "X|auto",
        "help": "may be a fraction; auto measures what a cell needs (default with cuda: 1)",
    },
    "data_root": {"type": folder, "metavar": "DIR", "help": "data sets in torchvision's layout"},
    "near_duplicates": {
        "action": "store_true",
        "help": "look for images that are alike, too, before the first training",
    },
    "theme": {
        "default": "light",
        "choices": ("light", "dark"),
        "help": "of the figures (default: %(default)s)",
    },
    "cost": {
        "default": "seconds",
        "choices": ("seconds", "samples"),
        "help": "of the figure: samples where trainings shared their machine with other work, or "
        "ran on several kinds (default: %(default)s)",
    },
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

    Examples:
        >>> shared("output", "seeds", seeds={"default": 5}).parse_args([]).seeds
        5
    """
    parent = ArgumentParser(add_help=False)
    for name in dict.fromkeys((*names, *changes)):
        parent.add_argument(flag(name), **{**FLAGS[name], **changes.get(name, {})})
    return parent


def start_at(parser: ArgumentParser, defaults: Mapping[str, Any]) -> None:
    """Gives flags of a parser other defaults, by their names in the result; --help says them."""
    for name, value in defaults.items():
        action = parser._option_string_actions[flag(name)]
        action.default = value
        action.help = re.sub(r"\(default: [^()]*\)", f"(default: {value})", action.help or "")


def program(name: str) -> str:
    """Returns how a script of `studies/` was started, as users write it: "metamixup table2"."""
    started, named = Path(sys.argv[0]), name.replace("_", "-")
    if started.stem == "metamixup":
        return f"metamixup {named}"
    as_module = (started.parent.name, started.stem) == ("studies", "__main__")
    return f"python -m studies {named}" if as_module else f"studies/{name}.py"


def command(prog: str, description: str | None, *parents: ArgumentParser) -> ArgumentParser:
    """Returns the parser of a command whose help shows its docstring as it is written.

    From then on standard output prints "?" for what a terminal or a log that is not UTF-8 lacks.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return _Command(
        prog=prog,
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
        parents=parents,
    )


class _Command(ArgumentParser):
    """A parser that takes no bytes which are not UTF-8: JSON and databases do not store them.

    What it refuses it names in one line, with the flag that was meant.
    """

    def error(self, message: str) -> NoReturn:
        """Exits with the line on standard error."""
        unknown = re.match(r"unrecognized arguments: (--[^ =]+)", message)
        flags = [name for name, a in self._option_string_actions.items() if a.help != SUPPRESS]
        near = unknown and get_close_matches(unknown[1], flags, 1, 0.75)
        hint = f"did you mean {near[0]}? " if near else ""
        self.exit(2, f"{self.prog}: error: {message}; {hint}--help lists the flags\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Exits with a message as for an unknown flag."""
        for text in sys.argv[1:] if args is None else args:
            shown = text.encode(errors="backslashreplace").decode()
            if shown != text:
                self.error(f"{shown} is not UTF-8; rename the file or folder, or link to it")
        return super().parse_known_args(args, namespace)


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


def chosen_device(device: str, *, here: bool = True, way_out: str = "use --device cpu") -> str:
    """Returns the device that --device names, or the one that "auto" stands for.

    Args:
        device: as given.
        here: what it is for runs on this machine, whose devices are known.
        way_out: what to do where this machine has no such device.

    Raises:
        ValueError: it is a GPU and there is none here.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next((gpu for gpu in available if here and available[gpu]), "cpu")
    if here and not available.get(device, True):
        raise ValueError(f"--device {device}: no {device.upper()} device here; {way_out}")
    return device


def canonical(dataset: str) -> str:
    """Returns `folder:PATH` with the path absolute, so that one folder has one name."""
    kind, separator, path = dataset.partition(":")
    if kind != "folder" or not separator:
        return dataset
    return f"folder:{Path(path).expanduser().resolve()}"
