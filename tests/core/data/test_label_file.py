"""Labels from a file: every form that it may have, and what is wrong with one in a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.data import read_labels, with_fingerprint
from tests.support.refusals import refused_in_a_line

LABELS = [2, 0, 1, 1]


@pytest.mark.parametrize(
    ("name", "text", "column"),
    [
        ("a.txt", "2\n0\n1\n1\n", ""),
        ("a.txt", "2\n0\n1\n1", ""),
        ("a.csv", "label\n2\n0\n1\n1\n", ""),
        ("a.csv", "\ufeffid,worse,best\n0,2,0\n1,0,0\n2,1,0\n3,1,0\n", "worse"),
        ("a.csv", "id, worse\r\n0, 2\r\n1, 0\r\n2, 1\r\n3, 1\r\n", "worse"),
    ],
)
def test_text_files(tmp_path: Path, name: str, text: str, column: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    place = str(tmp_path / name) + (f"::{column}" if column else "")
    for file in (place, with_fingerprint(place)):
        assert read_labels(file, 4, 3).tolist() == LABELS


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32])
def test_arrays(tmp_path: Path, dtype: type) -> None:
    array = np.array(LABELS, dtype=dtype)
    np.save(tmp_path / "a.npy", array)
    np.save(tmp_path / "b.npy", array[:, None])
    np.savez(tmp_path / "one.npz", array)
    np.savez(tmp_path / "two.npz", clean=array * 0, worse=array)
    for name in ("a.npy", "b.npy", "one.npz", "two.npz::worse"):
        assert read_labels(str(tmp_path / name), 4, 3).tolist() == LABELS


def test_the_fingerprint_is_of_the_labels(tmp_path: Path) -> None:
    file, other = tmp_path / "a.txt", tmp_path / "a.npy"
    file.write_text("2\n0\n1\n1\n")
    np.save(other, np.array(LABELS))
    named = with_fingerprint(str(file))
    assert named == with_fingerprint(named)
    assert named.rpartition("#")[2] == with_fingerprint(str(other)).rpartition("#")[2]
    file.write_text("2\n0\n1\n0\n")
    with pytest.raises(ValueError, match="has changed since this training was begun"):
        read_labels(named, 4, 3)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("absent.txt", None, "absent.txt cannot be read: FileNotFoundError"),
        ("a.txt", "", "is empty"),
        ("a.txt", "0\n1\n2\n", "has 3 labels for 4 training images"),
        ("a.txt", "0\n1\n2\n3\n", r"has 3 at index 3; labels must lie in \[0, 2\]"),
        ("a.txt", "0\n-1\n2\n1\n", "has -1 at index 1"),
        ("a.txt", "0\n1.5\n2\n1\n", "has '1.5' for image 1; give one integer"),
        ("a.txt", "0\ncat\n2\n1\n", "has 'cat' for image 1"),
        ("a.csv", "0,1\n1,1\n2,1\n1,1\n", r"several columns \(no heading\)"),
        ("a.csv", "x,y\n1,1\n", r"several columns \(x, y\); choose one by its heading"),
        ("a.npy", "no array", "a.npy"),
        ("a.txt", "0 " * 80_000, "a.txt cannot be read: Error: field larger than field limit"),
        ("a.txt", "0\n" + "1" * 21, "a.txt cannot be read: OverflowError"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with refused_in_a_line(message):
        read_labels(str(tmp_path / name), 4, 3)


def test_arrays_of_anything_else_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=np.zeros(4), b=np.zeros(4))
    with pytest.raises(ValueError, match="holds the arrays a, b; choose one"):
        read_labels(str(tmp_path / "two.npz"), 4, 3)
    for values in (np.array([0.5, 1, 2, 0]), np.array([np.inf] * 4), np.zeros((4, 3))):
        np.save(tmp_path / "a.npy", values)
        with pytest.raises(ValueError, match="must hold one integer a training image, got float64"):
            read_labels(str(tmp_path / "a.npy"), 4, 3)
    np.save(tmp_path / "o.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"o\.npy"):
        read_labels(str(tmp_path / "o.npy"), 4, 3)
