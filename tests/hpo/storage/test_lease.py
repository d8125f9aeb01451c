"""One study at a time where files cannot be locked."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from hpo.storage import lease
from hpo.storage.folder import FolderStorage
from hpo.storage.lease import leased

DEAD = {"process": 77, "host": "gone", "token": "t", "beat": 3}


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderStorage:
    monkeypatch.setattr(lease, "SETTLE", 0.0)
    monkeypatch.setattr(lease, "BEAT", 0.02)
    monkeypatch.setattr(lease, "PATIENCE", 0.2)
    return FolderStorage(tmp_path)


def lock(storage: FolderStorage) -> Any:
    return json.loads(storage.read("lock.json"))


def test_a_holder_shows_that_it_lives_and_leaves_nothing(storage: FolderStorage) -> None:
    with leased(storage):
        first = lock(storage)["beat"]
        deadline = time.monotonic() + 60
        while lock(storage)["beat"] <= first:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert storage.files("") == []
    with leased(storage):
        pass


def test_a_second_study_is_refused_and_disturbs_nothing(
    storage: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with leased(storage):
        token = lock(storage)["token"]
        monkeypatch.setattr(lease, "PATIENCE", 60.0)
        monkeypatch.setattr(lease, "_refuse_other", lambda *_: None)  # seen while it waits
        expected = rf"another study \(process \d+ on .*\) is running on {storage.uri}; .*--storage"
        with pytest.raises(BlockingIOError, match=expected), leased(storage):
            pass
        assert lock(storage)["token"] == token


def test_what_a_dead_one_held_is_taken_over(
    storage: FolderStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    storage.write("lock.json", json.dumps(DEAD).encode())
    with leased(storage):
        assert lock(storage)["token"] != "t"
    assert "held by process 77 on gone; waiting" in capsys.readouterr().err
    assert storage.files("") == []


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"process": 77}'])
def test_what_is_no_lock_is_named_with_the_way_out(content: bytes, storage: FolderStorage) -> None:
    storage.write("lock.json", content)
    expected = rf"{storage.uri}/lock\.json is no lock of a study; delete it"
    with pytest.raises(BlockingIOError, match=expected), leased(storage):
        pass
    assert storage.read("lock.json") == content


def test_who_is_waited_for_may_leave(
    storage: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write("lock.json", json.dumps(DEAD).encode())
    monkeypatch.setattr(lease, "PATIENCE", 3600.0)
    monkeypatch.setattr(lease.time, "sleep", lambda _: storage.delete("lock.json"))
    with leased(storage):
        pass


def test_of_two_that_start_at_once_one_stays(
    storage: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(_: float) -> None:  # wrote after us
        storage.write("lock.json", json.dumps(DEAD).encode())

    monkeypatch.setattr(lease.time, "sleep", other)
    with pytest.raises(BlockingIOError, match="process 77 on gone"), leased(storage):
        pass
    assert lock(storage)["process"] == 77


def test_a_storage_that_fails_for_a_while_ends_nothing(
    storage: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise OSError("nobody there")

    with leased(storage):
        monkeypatch.setattr(FolderStorage, "write", away)
        time.sleep(0.1)
        monkeypatch.undo()
    assert storage.files("") == []
