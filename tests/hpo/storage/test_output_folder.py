from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import hpo
from hpo.storage import output_folder
from hpo.storage.folder import FolderStorage

HOLD = """
import sys, time
from pathlib import Path
from hpo.storage.output_folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_by_one_process_until_that_dies(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "results"
    root = Path(str(hpo.__file__)).parents[1]
    command = [sys.executable, "-c", HOLD, str(output)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            message = rf"another study \(process {holder.pid}\) is running on {output}; wait for it"
            for _ in range(2):  # looking does not disturb
                with pytest.raises(BlockingIOError, match=message), output_folder.locked(output):
                    pass
            with output_folder.locked(tmp_path / "other"):
                pass
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait(30)
    for _ in range(2):  # an error frees it too
        with suppress(KeyError), output_folder.locked(output):
            assert (output / ".lock").read_text() == str(os.getpid())
            raise KeyError


def test_cells_are_in_the_folder_by_whatever_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "results")
    for output, root in (("results", "link"), ("link", "results"), ("results", "results/../link")):
        storage = FolderStorage(tmp_path / root)
        with (
            output_folder.locked(tmp_path / output),
            output_folder.held(tmp_path / output, storage),
        ):
            pass
    other = FolderStorage(tmp_path / "other")
    with output_folder.held(tmp_path / "results", other):
        assert (tmp_path / "other" / ".lock").exists()


def test_a_folder_that_cannot_be_is_named_with_the_way_out(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for output in (file, file / "results"):
        expected = rf"cannot write to the output folder {output}: .*; choose another output folder"
        with pytest.raises(OSError, match=expected), output_folder.locked(output):
            pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_named_with_the_way_out(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    expected = rf"^cannot lock the output folder {tmp_path}: .*; choose another output folder$"
    with pytest.raises(OSError, match=expected), output_folder.locked(tmp_path):
        pass


def test_what_a_killed_study_left_is_swept_and_the_rest_stays(tmp_path: Path) -> None:
    (tmp_path / ".ray-abc" / "table2").mkdir(parents=True)
    (tmp_path / "cells" / "x").mkdir(parents=True)
    (tmp_path / "table2.csv").write_text("")
    (tmp_path / ".table2.csv.4242").write_text("half")
    with output_folder.locked(tmp_path):
        names = {path.name for path in tmp_path.iterdir()}
    assert names == {".lock", "cells", "table2.csv"}


def test_on_a_full_disk_a_folder_is_held_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has to be written there fails later, and says what it is."""

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with output_folder.locked(tmp_path):
        unknown = pytest.raises(BlockingIOError, match="process unknown")
        with unknown, output_folder.locked(tmp_path):
            pass


def test_a_study_keeps_its_identity_until_it_begins_afresh(tmp_path: Path) -> None:
    first = output_folder.study_id(tmp_path, "table2", fresh=False)
    other = output_folder.study_id(tmp_path, "table1", fresh=False)
    assert first != other
    assert output_folder.study_id(tmp_path, "table2", fresh=False) == first
    renewed = output_folder.study_id(tmp_path, "table2", fresh=True)
    assert renewed not in (first, other)
    assert output_folder.study_id(tmp_path, "table2", fresh=False) == renewed
    assert output_folder.study_id(tmp_path, "table1", fresh=False) == other
    (tmp_path / "other").mkdir()
    elsewhere = output_folder.study_id(tmp_path / "other", "table2", fresh=False)
    assert elsewhere not in (renewed, other)
    assert set(json.loads((tmp_path / "studies.json").read_text())) == {"table1", "table2"}


@pytest.mark.parametrize("text", ['{"table2": "12', "[]", "3"])
def test_a_damaged_list_of_identities_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "studies.json").write_text(text)
    with pytest.raises(ValueError, match=r"studies\.json is not readable .*; delete it"):
        output_folder.study_id(tmp_path, "table2", fresh=False)


def test_cells_are_set_aside_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice in a second too."""
    assert output_folder.set_aside(tmp_path) is None
    monkeypatch.setattr(output_folder.time, "strftime", lambda _: "cells.before-1")
    names = []
    for number in range(3):
        (tmp_path / "cells" / "beta-1").mkdir(parents=True)
        (tmp_path / "cells" / "beta-1" / "result.json").write_text(str(number))
        names.append(str(output_folder.set_aside(tmp_path)))
    assert not (tmp_path / "cells").exists()
    assert names == ["cells.before-1", "cells.before-1-2", "cells.before-1-3"]
    texts = [(tmp_path / name / "beta-1" / "result.json").read_text() for name in names]
    assert texts == ["0", "1", "2"]


def test_a_storage_that_was_seen_to_work_holds_nothing_of_that(tmp_path: Path) -> None:
    """Or each study that is killed would leave a file there."""
    storage = FolderStorage(tmp_path / "cells")
    with output_folder.held(tmp_path / "out", storage):
        assert not list(storage.root.glob("check-*"))
