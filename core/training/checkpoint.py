"""Checkpoints that survive a kill at any moment: written aside, synced, renamed; one kept back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.lazy import torch

CURRENT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def save_checkpoint(directory: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors and plain types) as the directory's newest checkpoint.

    A kill at any moment leaves the newest or the one before it whole.

    Raises:
        OSError: the disk is full or the directory not writable; the last checkpoint is still there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    aside = directory / f".{CURRENT}.{os.getpid()}"
    try:
        with open(aside, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        current = directory / CURRENT
        if current.exists():
            os.replace(current, directory / PREVIOUS)
        os.replace(aside, current)
    except (OSError, RuntimeError) as error:
        # Of a full disk torch tells a position in the file, after the system's own word for it.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        raise OSError(
            f"cannot write the checkpoint {directory / CURRENT}: {cause}; free space or choose "
            "another output folder, then run again: training goes on from the last checkpoint"
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def load_checkpoint(directory: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """Returns the newest whole checkpoint of the directory, or None where there is none."""
    return next(checkpoints(directory, device), None)


def checkpoints(directory: Path, device: torch.device | str = "cpu") -> Iterator[dict[str, Any]]:
    """Returns the whole checkpoints of the directory, the newest first: at most two.

    Loaded with `weights_only`, so a file from a stranger runs no code. A truncated file is passed
    over with a warning.
    """
    for name in (CURRENT, PREVIOUS):
        path = directory / name
        if not path.exists():
            continue
        try:
            state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        except Exception as error:  # torch.load raises many kinds on a broken file
            warnings.warn(
                f"{path} cannot be read ({type(error).__name__}) and is passed over", stacklevel=2
            )
        else:
            yield state


def remove_checkpoints(directory: Path) -> None:
    """Deletes the directory's checkpoints, whole or partial."""
    for path in (*directory.glob(f".{CURRENT}.*"), directory / CURRENT, directory / PREVIOUS):
        path.unlink(missing_ok=True)
