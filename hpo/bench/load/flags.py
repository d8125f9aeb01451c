"""What the processes of a load are told: studies of tiny cells."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

STUDY = "load"

USAGE = "load-usage.json"
"""File of the samples in the study's folder."""

_TINY = ("--preset", "smoke", "--train-size", "20", "--meta-size", "10", "--batch-size", "20")


def study_flags(options: Namespace, folder: Path, seeds: int) -> list[str]:
    """Returns the flags of a study of so many tiny cells."""
    training = ("--dataset", "digits", *_TINY, "--epochs", str(options.epochs))
    return [*training, "--seeds", str(seeds), "--output", str(folder)]
