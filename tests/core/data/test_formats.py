from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy.io import savemat

from core.data import DataFileError
from core.data.formats import (
    read_cifar,
    read_cifar_classes,
    read_idx,
    read_idx_pair,
    read_svhn,
)

rng = np.random.default_rng(0)


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


_Pickler: Any = vars(pickle)["_Pickler"]  # the one in Python, which can be changed


class Python2Pickler(_Pickler):
    """Writes what Python 2 and the numpy of 2009 wrote into CIFAR's files.

    Byte strings as BINSTRING, numpy's functions under their old names, 0 and 1 for dtype's flags.
    """

    dispatch: ClassVar[dict[type, Any]] = dict(_Pickler.dispatch)

    write: Any
    memoize: Any

    def save_string(self, value: Any) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    def save_numpy(self, obj: Any) -> None:
        module = "numpy" if obj in (np.ndarray, np.dtype) else "numpy.core.multiarray"
        self.write(f"c{module}\n{obj.__name__}\n".encode())
        self.memoize(obj)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.dtype):
            return np.dtype, (obj.str[1:], 0, 1), obj.__reduce__()[2]
        return NotImplemented

    dispatch.update({str: save_string, bytes: save_string})
    dispatch.update(dict.fromkeys((type, type(np.dtype), type(len)), save_numpy))


def write_pickle(path: Path, content: dict[str, Any]) -> Path:
    with path.open("wb") as stream:
        Python2Pickler(stream, 2).dump(content)
    return path


# ------------------------------------------------------------------------------------------ idx


@pytest.mark.parametrize("packed", [False, True])
def test_idx_values_come_back(tmp_path: Path, packed: bool) -> None:
    array = rng.integers(0, 256, (3, 4, 5), dtype=np.uint8)
    path = tmp_path / ("a.gz" if packed else "a")
    path.write_bytes(gzip.compress(idx_bytes(array)) if packed else idx_bytes(array))
    np.testing.assert_array_equal(read_idx(path, 3), array)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "starts with the bytes"),
        (b"\x00\x00\x0d\x03" + bytes(20), "starts with the bytes 00000d03, must be 00000803"),
        (idx_bytes(np.zeros(5, np.uint8)), "starts with the bytes 00000801"),
        (idx_bytes(np.zeros((2, 2, 2), np.uint8))[:9], "inside its 16-byte header"),
        (idx_bytes(np.zeros((2, 2, 2), np.uint8))[:-1], r"23 bytes, its header \(2, 2, 2\)"),
        (idx_bytes(np.zeros((2, 2, 2), np.uint8)) + b"x", "25 bytes"),
    ],
)
def test_damaged_idx_names_the_file(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(data)
    with pytest.raises(DataFileError, match=f"{path}: .*{message}"):
        read_idx(path, 3)


@pytest.mark.parametrize("damage", ["cut", "flipped", "no gzip"])
def test_damaged_gzip_names_the_file(tmp_path: Path, damage: str) -> None:
    packed = bytearray(gzip.compress(idx_bytes(rng.integers(0, 256, (9, 9, 9), dtype=np.uint8))))
    if damage == "cut":
        packed = packed[: len(packed) // 2]
    elif damage == "flipped":
        packed[len(packed) // 2] ^= 255
    else:
        packed = bytearray(b"<html>not found</html>")
    path = tmp_path / "images.gz"
    path.write_bytes(packed)
    with pytest.raises(DataFileError, match=f"{path}: the gzip stream is cut short or damaged"):
        read_idx(path, 3)


@pytest.mark.parametrize(
    ("labels", "size", "message"),
    [
        ([0, 1, 10], 8, "label 10 at index 2 lies outside 0..9"),
        ([0, 1], 8, "holds 2 labels for 3 images"),
        ([0, 1, 2], 9, r"holds images \(3, 8, 8\), must be \(N, 9, 9\)"),
    ],
)
def test_images_and_labels_must_agree(
    tmp_path: Path, labels: list[int], size: int, message: str
) -> None:
    (tmp_path / "images").write_bytes(idx_bytes(np.zeros((3, 8, 8), np.uint8)))
    (tmp_path / "labels").write_bytes(idx_bytes(np.array(labels, np.uint8)))
    with pytest.raises(DataFileError, match=message):
        read_idx_pair(tmp_path / "images", tmp_path / "labels", size, 10)


# ---------------------------------------------------------------------------------------- CIFAR


@pytest.mark.parametrize("python2", [True, False])
def test_cifar_batches_are_planes_of_32_rows(tmp_path: Path, python2: bool) -> None:
    batches, paths = [], []
    for i in range(2):
        data = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        content = {"batch_label": f"batch {i}", "labels": [i, 9, 0, 3], "data": data}
        path = tmp_path / f"data_batch_{i}"
        if python2:
            write_pickle(path, content)
        else:
            path.write_bytes(pickle.dumps(content))
        batches.append(data)
        paths.append(path)
    if python2:
        # The very words of the published files.
        assert b"cnumpy.core.multiarray\n_reconstruct\n" in paths[0].read_bytes()
        assert paths[0].read_bytes()[:2] == b"\x80\x02"
    images, labels = read_cifar(paths, "labels", 10)
    assert images.shape == (8, 3, 32, 32)
    assert images.dtype == np.uint8
    assert labels.tolist() == [0, 9, 0, 3, 1, 9, 0, 3]
    for n, c, row, column in [(0, 0, 0, 0), (5, 1, 7, 30), (7, 2, 31, 31)]:
        value = batches[n // 4][n % 4][c * 1024 + row * 32 + column]
        assert images[n, c, row, column] == value


def test_cifar_class_names(tmp_path: Path) -> None:
    path = write_pickle(tmp_path / "meta", {"fine_label_names": ["apple", "bear"]})
    assert read_cifar_classes(path, "fine_label_names", 2) == ("apple", "bear")
    with pytest.raises(DataFileError, match=f"{path}: .*must list 100 class names, has 2"):
        read_cifar_classes(path, "fine_label_names", 100)
    with pytest.raises(DataFileError, match="has no list"):
        read_cifar_classes(path, "label_names", 2)


DATA = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": DATA}, "lacks the key 'fine_labels', holds"),
        ({"data": DATA[:, :9], "fine_labels": [0, 1]}, r"'data' is uint8 \(2, 9\)"),
        ({"data": DATA.astype(float), "fine_labels": [0, 1]}, "'data' is float64"),
        ({"data": [1, 2], "fine_labels": [0, 1]}, "'data' is <class 'list'>"),
        ({"data": DATA, "fine_labels": [0]}, r"'fine_labels' is int64 \(1,\) for 2 images"),
        ({"data": DATA, "fine_labels": [0, 100]}, "label 100 at index 1 lies outside 0..99"),
        ([1, 2], "holds a list, must hold a dict"),
    ],
)
def test_wrong_cifar_content_names_the_file(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "train"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataFileError, match=f"{path}: .*{message}"):
        read_cifar([path], "fine_labels", 100)


def test_damaged_cifar_names_the_file(tmp_path: Path) -> None:
    path = write_pickle(tmp_path / "test_batch", {"data": DATA, "labels": [0, 1]})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataFileError, match=f"{path}: is no pickle of a CIFAR batch"):
        read_cifar([path], "labels", 10)


def test_a_pickle_cannot_run_code(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "touched",)

    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({"data": Attack()}))
    with pytest.raises(DataFileError, match="is no pickle of a CIFAR batch"):
        read_cifar([path], "labels", 10)
    assert not (tmp_path / "touched").exists()


# ----------------------------------------------------------------------------------------- SVHN


def test_svhn_ten_means_zero(tmp_path: Path) -> None:
    images = rng.integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    path = tmp_path / "train_32x32.mat"
    savemat(path, {"X": images, "y": np.array([[10], [1], [9], [10]], np.uint8)})
    pixels, labels = read_svhn(path)
    assert labels.tolist() == [0, 1, 9, 0]
    assert labels.dtype == np.int64
    assert pixels.shape == (4, 3, 32, 32)
    assert pixels[2, 1, 30, 4] == images[30, 4, 1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"X": np.zeros((32, 32, 3, 2), np.uint8)}, "lacks the variable 'y'"),
        ({"X": np.zeros((32, 32, 3, 2)), "y": [[1], [2]]}, "'X' is float64"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1]]}, "holds 1 labels for 2 images"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1], [0]]}, "label 0 at index 1"),
    ],
)
def test_wrong_svhn_content_names_the_file(
    tmp_path: Path, content: dict[str, Any], message: str
) -> None:
    path = tmp_path / "test_32x32.mat"
    savemat(path, content)
    with pytest.raises(DataFileError, match=f"{path}: .*{message}"):
        read_svhn(path)


def test_damaged_svhn_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "test_32x32.mat"
    savemat(path, {"X": np.zeros((32, 32, 3, 9), np.uint8), "y": np.ones((9, 1))})
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataFileError, match=f"{path}: is no readable Matlab file"):
        read_svhn(path)
