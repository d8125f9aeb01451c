"""What a node finds wrong with a storage; a whole cluster is in cluster/test_two_nodes.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpo.cluster.nodes import looked_at
from hpo.storage.folder import FolderStorage


def test_a_node_that_has_the_folder_finds_nothing(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    storage.write("check/file", b"word")
    assert looked_at(storage, "check/file", b"word") is None
    assert storage.files("") == ["check/file"]


def test_a_node_that_has_another_folder_of_the_name_says_so(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    told = looked_at(storage, "check/file", b"word")
    assert told is not None
    assert "does not find there what this machine wrote" in told
    storage.write("check/file", b"of another study")
    told = looked_at(storage, "check/file", b"word")
    assert told is not None
    assert "another file" in told


def test_a_node_that_may_not_write_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = FolderStorage(tmp_path)
    storage.write("check/file", b"word")

    def read_only(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(FolderStorage, "write", read_only)
    told = looked_at(storage, "check/file", b"word")
    assert told is not None
    assert "Read-only file system" in told
