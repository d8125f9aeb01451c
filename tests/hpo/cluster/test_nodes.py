"""What a node says of a storage; a whole cluster is in tests/system/cluster/test_two_nodes.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpo.cluster.nodes import looked_at
from hpo.storage.folder import FolderStorage


def test_a_node_says_what_is_wrong_with_the_storage_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = FolderStorage(tmp_path)

    def trouble() -> str:
        return str(looked_at(storage, "check/file", b"word"))

    assert "does not find there what this machine wrote" in trouble()
    storage.write("check/file", b"of another study")
    assert "another file" in trouble()
    storage.write("check/file", b"word")
    assert looked_at(storage, "check/file", b"word") is None
    assert storage.files("") == ["check/file"]

    def read_only(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(FolderStorage, "write", read_only)
    assert "Read-only file system" in trouble()
