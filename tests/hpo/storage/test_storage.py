"""Every storage keeps what a folder keeps: one suite for all, then what each has for itself."""

from __future__ import annotations

import os
import pickle
import uuid
from pathlib import Path
from typing import Any

import pytest
import torch

from core.training.checkpoint import CURRENT, PREVIOUS, load_checkpoint, save_checkpoint
from hpo.cells.record import CellRecord
from hpo.cells.store import CellStore, StoreError
from hpo.storage import bucket, output_folder
from hpo.storage.atomic import in_place_of, sweep, write_bytes_atomically
from hpo.storage.bucket import BucketStorage, bucket_at
from hpo.storage.folder import FolderStorage
from hpo.storage.places import checked, output_at, storage_at
from hpo.storage.protocol import Storage

MakeRecord = Any


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return storage_at(tmp_path / "shared")
    s3 = request.getfixturevalue("s3")
    return storage_at(f"s3://{s3.bucket}/{uuid.uuid4().hex}")


def test_what_is_written_comes_back(storage: Storage) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read("cells/a/result.json")
    storage.write("cells/a/result.json", b"1")
    storage.write("cells/a/result.json", b"twice")
    assert storage.read("cells/a/result.json") == b"twice"
    large = os.urandom(2**20)
    storage.write("large", large)
    assert storage.read("large") == large


def test_files_are_listed_below_a_folder(storage: Storage) -> None:
    assert storage.files("cells") == []
    for name in ("cells/b/two", "cells/a/one", "cells/b/deep/three", "cells.before/x", "top"):
        storage.write(name, b"")
    assert storage.files("cells") == ["cells/a/one", "cells/b/deep/three", "cells/b/two"]
    assert storage.files("cells/a") == ["cells/a/one"]


def test_a_file_is_deleted_and_its_neighbours_stay(storage: Storage) -> None:
    storage.write("cells/a/one", b"1")
    storage.write("cells/a/two", b"2")
    storage.delete("cells/a/one")
    storage.delete("cells/a/one")
    assert storage.files("cells") == ["cells/a/two"]
    storage.delete("cells/a/two")
    assert storage.files("cells") == []


def test_a_folder_gets_another_name(storage: Storage) -> None:
    storage.write("cells/a/one", b"1")
    storage.write("cells/b/two", b"2")
    storage.rename("cells", "aside")
    assert storage.files("cells") == []
    assert storage.files("aside") == ["aside/a/one", "aside/b/two"]
    assert storage.read("aside/b/two") == b"2"


def test_another_process_finds_the_same(storage: Storage) -> None:
    storage.write("here", b"x")  # with the connection open
    again = pickle.loads(pickle.dumps(storage))
    assert again == storage
    assert again.read("here") == b"x"
    assert storage_at(storage.uri) == storage


def test_a_check_leaves_nothing(storage: Storage) -> None:
    with checked(storage) as (name, content):
        assert storage.read(name) == content
    assert storage.files("") == []


def test_a_training_finds_its_checkpoints_on_another_machine(storage: Storage) -> None:
    for epoch in (1, 2, 3):  # of one training, killed each time after its epoch
        with storage.checkpoints("cells/a") as (directory, keep):
            state = load_checkpoint(directory)
            assert (0 if state is None else state["epoch"]) == epoch - 1
            save_checkpoint(directory, {"epoch": epoch, "w": torch.ones(5)})
            keep()
    assert storage.files("cells") == [f"cells/a/{PREVIOUS}", f"cells/a/{CURRENT}"]
    storage.write(f"cells/a/{CURRENT}", storage.read(f"cells/a/{CURRENT}")[:100])
    with storage.checkpoints("cells/a") as (directory, _):
        with pytest.warns(UserWarning, match="passed over"):
            state = load_checkpoint(directory)
        assert state is not None
        assert state["epoch"] == 2
    storage.write("cells/a/result.json", b"{}")
    storage.write(f"cells/b/{CURRENT}", b"of a cell that runs")
    storage.remove_checkpoints(["cells/a"])
    assert storage.files("cells") == ["cells/a/result.json", f"cells/b/{CURRENT}"]
    storage.write(f"cells/a/{CURRENT}", b"late")
    storage.write(f"cells/c/{CURRENT}", b"late")
    storage.remove_checkpoints(["cells/a", "cells/c"])
    assert storage.files("cells") == ["cells/a/result.json", f"cells/b/{CURRENT}"]
    storage.remove_checkpoints([])


def test_records_and_identity_are_there_for_whoever_comes(
    storage: Storage, make_record: MakeRecord
) -> None:
    store = CellStore(storage)
    records = [make_record(method, seed) for method in ("beta-2", "none") for seed in (0, 1)]
    assert store.records() == []
    assert store.load(records[0].cell.id) is None
    for record in records:
        store.save(record)
    storage.write("cells/running/checkpoint.pt", b"...")
    storage.write("cells/notes.txt", b"of the user's own")
    assert store.load("running") is None
    elsewhere = CellStore(storage_at(storage.uri))
    assert elsewhere.records() == sorted(records, key=lambda record: record.cell.id)
    identity = output_folder.study_id(storage, "table2")
    assert output_folder.study_id(storage_at(storage.uri), "table2") == identity
    aside = output_folder.set_aside(storage)
    assert elsewhere.records() == []
    assert len([name for name in storage.files(str(aside)) if "result.json" in name]) == 4


def test_a_damaged_record_is_named(storage: Storage, make_record: MakeRecord) -> None:
    record: CellRecord = make_record()
    store = CellStore(storage)
    storage.write(f"cells/{record.cell.id}/result.json", b"{")
    with pytest.raises(StoreError, match=f"{storage.uri}/cells/.* not a readable result .*delete"):
        store.load(record.cell.id)


# Folders


@pytest.mark.parametrize(
    ("place", "root", "relative"),
    [
        ("/shared/table2", "/shared/table2", False),
        ("file:///shared/my%20study", "/shared/my study", False),
        ("results", "{here}/results", True),
        ("~/results", "{home}/results", False),
    ],
)
def test_a_folder_has_many_names(
    place: str, root: str, relative: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = root.format(here=tmp_path, home=Path.home())
    assert storage_at(place) == FolderStorage(Path(expected), relative=relative)


@pytest.mark.parametrize(
    "place",
    [
        "ftp://bucket/x",
        "http://host/x",
        "https://me:hunter2@host:9000/b/x",
        "file://host/x",
        "file:///",
        "file:cells",
        "file:",
        "s4:/bucket",
    ],
)
def test_other_schemes_are_refused(place: str) -> None:
    expected = pytest.raises(
        ValueError, match=r"--storage .*: give a path, file:///PATH, or a bucket"
    )
    with expected as caught:
        storage_at(place)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("place", ["", " "])
def test_an_empty_text_is_not_the_current_folder(place: str) -> None:
    with pytest.raises(ValueError, match=r"^--storage names no place \(it is empty\); give a path"):
        storage_at(place)
    with pytest.raises(ValueError, match=r"^output names no folder \(it is empty\); give one"):
        output_at(place)
    assert output_at(Path()) == Path.cwd()


@pytest.mark.parametrize("end", ["#1", "?", "?a=b", "#"])
def test_a_file_uri_is_not_cut(end: str) -> None:
    with pytest.raises(ValueError, match=r"--storage file:///a/b.*; write %3F and %23 where they"):
        storage_at(f"file:///a/b{end}")
    assert storage_at("file:///a/b%231%3F") == FolderStorage(Path("/a/b#1?"))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), checked(FolderStorage(tmp_path / "file")):
        pass


# Buckets


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("s3://bucket", "give bucket and prefix"),
        ("s3:///prefix", "give bucket and prefix"),
        ("gs://bucket/", "give bucket and prefix"),
        ("s3:bucket/x", "give bucket and prefix"),
        ("abfs://container@", "give bucket and prefix"),
        ("s3://key:hunter2@bucket/x", "set AWS_ACCESS_KEY_ID"),
        ("s3://bucket/x?region=hunter2", "set AWS_ACCESS_KEY_ID"),
        ("gs://hunter2@bucket/x", "set GOOGLE_APPLICATION_CREDENTIALS instead"),
        ("abfs://box:hunter2@account.dfs.core.windows.net/x", "set AZURE_CLIENT_ID"),
    ],
)
def test_a_bucket_needs_its_name_and_a_prefix_and_no_credentials(place: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        storage_at(place)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("s3://bucket/deep/prefix", "S3FileSystem"),
        ("gs://bucket/deep/prefix", "GcsFileSystem"),
        ("gcs://bucket/deep/prefix", "GcsFileSystem"),
        ("abfs://bucket@account.dfs.core.windows.net/deep/prefix", "AzureFileSystem"),
        ("abfss://bucket@account.dfs.core.windows.net/deep/prefix", "AzureFileSystem"),
    ],
)
def test_pyarrow_knows_each_kind_of_bucket(
    place: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request is made: the region is given, which pyarrow would ask Amazon for otherwise."""
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    storage = storage_at(f"{place}/")
    assert isinstance(storage, BucketStorage)
    assert storage.uri == place
    assert type(storage._files.base_fs).__name__ == kind
    assert storage._files.base_path.rstrip("/") == "bucket/deep/prefix"


def test_another_study_on_a_bucket_is_warned_of(
    s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing can be locked there. One that was killed leaves what a running one leaves."""
    storage = storage_at(f"s3://{s3.bucket}/{uuid.uuid4().hex}")
    with output_folder.held(tmp_path, storage):
        assert capsys.readouterr().err == ""
        with output_folder.held(tmp_path, storage):
            warning = capsys.readouterr().err
    assert warning.startswith(f"warning: another study (process {os.getpid()} on ")
    assert f") is running on {storage.uri}, or was killed there" in warning
    assert storage.files("") == []
    storage.write("lock.json", b"[]")
    with output_folder.held(tmp_path, storage):
        assert "another study (unknown)" in capsys.readouterr().err


def test_the_environment_names_server_and_region(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    assert bucket_at("s3://b/p/q/") == BucketStorage("s3://b/p/q", None, None)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://all")
    assert bucket_at("s3://b/p") == BucketStorage("s3://b/p", "http://all", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert bucket_at("s3://b/p") == BucketStorage("s3://b/p", "http://s3", "eu-west-1")
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    assert bucket_at("s3://b/p").region == "eu-north-1"


def test_a_prefix_is_any_name_of_objects(s3: Any) -> None:
    storage = bucket_at(f"s3://{s3.bucket}/my results/ü")
    storage.write("cells/a", b"1")
    assert (storage.read("cells/a"), storage.files("cells")) == (b"1", ["cells/a"])
    with pytest.raises(ValueError, match="give bucket and prefix"):
        bucket_at("s3://bucket/a//b")


def test_no_credentials_travel_with_it(s3: Any) -> None:
    storage = bucket_at(f"s3://{s3.bucket}/p")
    storage.files("")
    assert s3.secret.encode() not in pickle.dumps(storage)
    assert s3.key.encode() not in pickle.dumps(storage)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "AWS Error SIGNATURE_DOES_NOT_MATCH"),
        ({"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE"}, "AWS Error INVALID_ACCESS_KEY_ID"),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            "AWS Error NETWORK_CONNECTION.*Could not connect",
        ),
    ],
    ids=["wrong secret", "unknown key", "nobody there"],
)
def test_a_bucket_that_cannot_be_used_is_named_with_the_reason(
    change: dict[str, str], expected: str, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    place = f"s3://{s3.bucket}/p/check-.* at {os.environ['AWS_ENDPOINT_URL']}: "
    with (
        pytest.raises(OSError, match=place + expected) as caught,
        checked(bucket_at(f"s3://{s3.bucket}/p")),
    ):
        pass
    assert "Request ID" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_not_made(s3: Any) -> None:
    with pytest.raises(OSError, match="NO_SUCH_BUCKET"), checked(bucket_at("s3://nowhere/p")):
        pass


def test_uploads_take_a_tenth_of_the_time_at_most(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, seconds = bucket_at(f"s3://{s3.bucket}/{uuid.uuid4().hex}"), 0.0
    write = BucketStorage.write

    def slow(self: BucketStorage, name: str, content: bytes) -> None:
        nonlocal seconds
        seconds += 2.0
        write(self, name, content)

    monkeypatch.setattr(BucketStorage, "write", slow)
    monkeypatch.setattr(bucket.time, "monotonic", lambda: seconds)
    seen = []
    with storage.checkpoints("cells/a") as (directory, keep):
        for epoch in range(1, 50):
            seconds += 1.0
            save_checkpoint(directory, {"epoch": epoch})
            keep()
            keep()  # nothing new
            with storage.checkpoints("cells/a") as (elsewhere, _):
                state = load_checkpoint(elsewhere)
            assert state is not None
            seen.append(state["epoch"])
    assert sorted(set(seen)) == [1, 21, 41]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_file_that_cannot_be_written_is_named_and_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("of before")
    (tmp_path / f".table.csv.{os.getpid()}").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*/table\.csv'"):
        write_bytes_atomically(path, b"new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("table.csv", "of before")]
    with pytest.raises(OSError, match="a library's own"), in_place_of(path):
        raise OSError("a library's own")


def test_what_a_killed_writer_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    halves = [".table2.csv.17", ".result.json.4242", ".table2-controls.md.1", ".table2.png.31337"]
    halves += [".mlflow.db.17", ".mlflow.db.17-journal"]
    others = [
        "result.json",
        ".lock",
        ".notes.2024",
        "table2.csv.1",
        ".a.csv.1x",
        ".checkpoint.pt.7",
    ]
    for name in [*halves, *others]:
        (tmp_path / name).write_text("")
    (tmp_path / ".ray-abc").mkdir()
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*others, ".ray-abc"}
    sweep(tmp_path / "not there")
