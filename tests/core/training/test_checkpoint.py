from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from core.training.checkpoint import (
    CURRENT,
    PREVIOUS,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from tests.support.processes import Killed


def state(epoch: int) -> dict[str, Any]:
    g = torch.Generator().manual_seed(epoch)
    return {
        "epoch": epoch,
        "model": {"w": torch.rand(50, generator=g), "n": torch.tensor(epoch)},
        "history": [{"lr": 0.1 * epoch, "name": "λ"}],
        "stream": g.get_state(),
    }


def assert_holds(directory: Path, epoch: int) -> None:
    loaded, truth = load_checkpoint(directory), state(epoch)
    assert loaded is not None
    assert (loaded["epoch"], loaded["history"]) == (epoch, truth["history"])
    assert torch.equal(loaded["model"]["w"], truth["model"]["w"])
    assert torch.equal(loaded["stream"], truth["stream"])


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_saves_loads_and_keeps_one_behind(tmp_path: Path) -> None:
    directory = tmp_path / "not" / "there"
    assert load_checkpoint(directory) is None
    for epoch in (1, 2, 3):
        save_checkpoint(directory, state(epoch))
        assert_holds(directory, epoch)
    assert files(directory) == {CURRENT, PREVIOUS}
    (directory / CURRENT).unlink()
    assert_holds(directory, 2)


def test_removes_every_trace(tmp_path: Path) -> None:
    for epoch in (1, 2):
        save_checkpoint(tmp_path, state(epoch))
    (tmp_path / f".{CURRENT}.123").write_bytes(b"of a process that was killed")
    (tmp_path / "result.json").write_text("{}")
    remove_checkpoints(tmp_path)
    assert files(tmp_path) == {"result.json"}
    remove_checkpoints(tmp_path)


@pytest.mark.parametrize("error", [OSError("No space left"), RuntimeError("unexpected pos 64")])
def test_a_failing_write_leaves_the_last_checkpoint(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, state(1))
    save_checkpoint(tmp_path, state(2))

    def half(_: Any, file: Any) -> None:
        file.write(b"half a checkpoint")
        raise error

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match=rf"{CURRENT}: {error}; free space or choose another.*again"):
        save_checkpoint(tmp_path, state(3))
    monkeypatch.undo()
    assert files(tmp_path) == {CURRENT, PREVIOUS}
    assert_holds(tmp_path, 2)
    save_checkpoint(tmp_path, state(3))
    assert_holds(tmp_path, 3)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_in_the_systems_own_words(tmp_path: Path) -> None:
    (tmp_path / f".{CURRENT}.{os.getpid()}").symlink_to("/dev/full")
    with pytest.raises(OSError, match=rf"{CURRENT}: \[Errno 28\] No space left on device; free"):
        save_checkpoint(tmp_path, {"w": torch.zeros(100_000)})
    assert not files(tmp_path)


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / f".{CURRENT}.{os.getpid()}").mkdir()  # stands in the way, even of root
    with pytest.raises(OSError, match="director"):
        save_checkpoint(tmp_path, state(1))


def test_what_cannot_be_stored_leaves_nothing_behind(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(1))
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        save_checkpoint(tmp_path, {"function": lambda: None})
    assert files(tmp_path) == {CURRENT}
    assert_holds(tmp_path, 1)


@pytest.mark.parametrize("moment", ["save", "fsync", "first rename", "second rename"])
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, state(1))
    save_checkpoint(tmp_path, state(2))
    renames = []

    def kill(*_: Any) -> None:
        raise Killed

    def rename(source: Any, target: Any, real: Any = os.replace) -> None:
        renames.append(target)
        if len(renames) == (1 if moment == "first rename" else 2):
            raise Killed
        real(source, target)

    if moment == "save":
        monkeypatch.setattr(torch, "save", kill)
    elif moment == "fsync":
        monkeypatch.setattr(os, "fsync", kill)
    else:
        monkeypatch.setattr(os, "replace", rename)
    with pytest.raises(Killed):
        save_checkpoint(tmp_path, state(3))
    monkeypatch.undo()
    assert_holds(tmp_path, 2)
    save_checkpoint(tmp_path, state(4))
    assert_holds(tmp_path, 4)


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_truncated_newest_is_passed_over_with_a_warning(keep: int, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(1))
    save_checkpoint(tmp_path, state(2))
    newest = tmp_path / CURRENT
    newest.write_bytes(newest.read_bytes()[:keep])
    with pytest.warns(UserWarning, match=rf"{CURRENT} cannot be read .* passed over"):
        loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded["epoch"] == 1
    (tmp_path / PREVIOUS).write_bytes(b"")
    with pytest.warns(UserWarning, match="cannot be read") as caught:
        assert load_checkpoint(tmp_path) is None
    assert [name for w in caught for name in (CURRENT, PREVIOUS) if name in str(w.message)] == [
        CURRENT,
        PREVIOUS,
    ]


def test_a_file_from_a_stranger_runs_no_code(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "harm",))

    save_checkpoint(tmp_path, state(1))
    save_checkpoint(tmp_path, state(2))
    torch.save({"epoch": Harm()}, tmp_path / CURRENT)
    with pytest.warns(UserWarning, match="cannot be read"):
        loaded = load_checkpoint(tmp_path)
    assert not (tmp_path / "harm").exists()
    assert loaded is not None
    assert loaded["epoch"] == 1
    torch.load(tmp_path / CURRENT, weights_only=False)
    assert (tmp_path / "harm").exists()  # the bait does bite
