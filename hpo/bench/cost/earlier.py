"""Epochs of an earlier commit's code, in a process of its own, to take turns with those of now."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from core.data import Source
from core.training.config import TrainingConfig

_PROGRAM = """\
import json, sys
import numpy as np
from core.data import source_from_arrays
from core.training.config import TrainingConfig
from core.training.fit import reproducible
from core.training.training import Training
told = json.loads(sys.argv[1])
images = np.load(told["images"])
arrays = [images[part] for part in told["parts"]]
source = source_from_arrays(told["name"], *arrays, told["classes"])
config = TrainingConfig.from_dict(told["config"])
with reproducible(config.seed, device=told["device"], threads=told["threads"]):
    training = Training(config, source, told["device"])
    for _ in sys.stdin:
        training.epoch()
        print("trained", flush=True)
"""
"""It names what commits since the first `core.training.training` have."""

_PARTS = ("train_data", "train_labels", "test_data", "test_labels")


def check_tree(before: Path) -> Path:
    """Returns the absolute path of a working tree with code of before.

    Raises:
        ValueError: it is none.
    """
    tree = before.expanduser().absolute()
    if not (tree / "core" / "training" / "training.py").is_file():
        raise ValueError(
            f"--before {before} has no core/training/training.py; name a working tree of an "
            "earlier commit, as `git worktree add PATH COMMIT` makes one"
        )
    return tree


def code_of(tree: Path) -> str:
    """Returns a digest of the code in a working tree, by which two commits are told apart."""
    digest = hashlib.sha256()
    for path in sorted((tree / "core").rglob("*.py")):
        digest.update(f"{path.relative_to(tree).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def earlier_epochs(
    before: Path, config: TrainingConfig, source: Source, *, device: str, threads: int
) -> Generator[None, None, None]:
    """Yields after each epoch that the code in the working tree `before` trains; close it to end
    its process.

    Raises:
        RuntimeError: its process ended; the error tells its last line.
    """
    stored = {name: v for name, v in config.to_dict().items() if _differs(config, name, v)}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npz"
        arrays: dict[str, Any] = {part: getattr(source, part) for part in _PARTS}
        np.savez(images, **arrays)
        told = {
            "config": stored,
            "name": source.name,
            "classes": list(source.classes),
            "images": str(images),
            "parts": _PARTS,
            "device": device,
            "threads": threads,
        }
        with (
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, json.dumps(told)],
                cwd=before,  # which goes before all other places of modules
                env={**os.environ, "PYTHONPATH": str(before)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            ) as process,
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                while True:
                    print(file=process.stdin, flush=True)
                    if not process.stdout.readline():
                        break
                    yield
            except BrokenPipeError:
                pass
            finally:
                process.kill()
            errors.seek(0)
            lines = errors.read().strip().splitlines()
            raise RuntimeError(f"the code in {before} failed: {(lines or ['no message'])[-1]}")


def _differs(config: TrainingConfig, name: str, value: object) -> bool:
    """Returns whether the setting is another than its default, which earlier code may not know."""
    default = type(config).__dataclass_fields__[name].default
    return value != (list(default) if isinstance(default, tuple) else default)
