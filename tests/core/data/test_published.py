"""The named data sets, on small files in the published formats."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import socket
import struct
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, cast
from urllib.error import URLError

import numpy as np
import pytest
from scipy.io import savemat

from core.data import DATASETS, default_root, load_source
from core.data import published as module

rng = np.random.default_rng(1)
IDX = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def write_idx(folder: Path, suffix: str = "") -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for part, count in (("train", 20), ("t10k", 10)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{part}-images-idx3"] = images
        arrays[f"{part}-labels-idx1"] = (np.arange(count) % 10).astype(np.uint8)
    for name, array in arrays.items():
        data = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        data += array.tobytes()
        path = folder / f"{name}-ubyte{suffix}"
        path.write_bytes(gzip.compress(data) if suffix else data)
    return arrays


def write_cifar(root: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    folder = root / ("cifar-10-batches-py" if name == "cifar10" else "cifar-100-python")
    folder.mkdir(parents=True)
    train = [f"data_batch_{i}" for i in range(1, 6)] if name == "cifar10" else ["train"]
    test = "test_batch" if name == "cifar10" else "test"
    meta = "batches.meta" if name == "cifar10" else "meta"
    key, count = ("labels", 10) if name == "cifar10" else ("fine_labels", 100)
    names = "label_names" if name == "cifar10" else "fine_label_names"
    pixels = []
    for file in [*train, test]:
        data = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        content = {"data": data, key: [0, 1, 2, count - 1], "coarse_labels": [0, 0, 1, 1]}
        (folder / file).write_bytes(pickle.dumps(content, protocol=2))
        pixels.append(data)
    (folder / meta).write_bytes(pickle.dumps({names: [f"class {i}" for i in range(count)]}))
    return np.concatenate(pixels[:-1]), pixels[-1]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A test that opens a connection by mistake fails at once.
    connect = socket.create_connection

    def refuse(address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
        if address[0] != "127.0.0.1":
            raise OSError("no network in tests")
        return connect(address, *args, **kwargs)

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(module, "_DEBIAN_FASHION_MNIST", tmp_path / "no-system-copy")


def test_digits_have_a_fixed_balanced_test_part() -> None:
    from sklearn.datasets import load_digits

    source, again = load_source("digits"), load_source("digits")
    assert np.bincount(source.test_labels).tolist() == [50] * 10
    assert len(source.train_labels) == 1297
    np.testing.assert_array_equal(source.test_data, again.test_data)
    # Together the parts are scikit-learn's images, each once; 0..16 became 0..255.
    both = np.concatenate([source.train_data, source.test_data]).reshape(1797, 64) / 255
    original = load_digits().data
    assert sorted(map(tuple, np.rint(both * 16))) == sorted(map(tuple, original))
    assert both.max() == 1


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")]
)
def test_mnist_layouts(tmp_path: Path, name: str, folder: str, suffix: str) -> None:
    arrays = write_idx(tmp_path / folder / "raw", suffix)
    source = load_source(name, root=tmp_path)
    assert isinstance(source.train_data, np.ndarray)
    np.testing.assert_array_equal(source.train_data[:, 0], arrays["train-images-idx3"])
    np.testing.assert_array_equal(source.test_labels, arrays["t10k-labels-idx1"])
    spec = DATASETS[name]
    assert (source.num_classes, source.in_channels, source.image_size) == (
        spec.num_classes,
        spec.in_channels,
        spec.image_size,
    )


def test_the_system_copy_of_fashion_mnist_serves_where_the_root_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DEBIAN_FASHION_MNIST", tmp_path / "system")
    system = write_idx(tmp_path / "system", ".gz")
    source = load_source("fashion_mnist", root=tmp_path / "root")
    assert isinstance(source.train_data, np.ndarray)
    np.testing.assert_array_equal(source.train_data[:, 0], system["train-images-idx3"])
    ours = write_idx(tmp_path / "root" / "FashionMNIST" / "raw")
    source = load_source("fashion_mnist", root=tmp_path / "root")
    assert isinstance(source.train_data, np.ndarray)
    np.testing.assert_array_equal(source.train_data[:, 0], ours["train-images-idx3"])


def test_real_fashion_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    monkeypatch.setattr(module, "_DEBIAN_FASHION_MNIST", folder)
    source = load_source("fashion_mnist", root=tmp_path)
    assert np.bincount(source.train_labels).tolist() == [6000] * 10
    assert np.bincount(source.test_labels).tolist() == [1000] * 10
    assert isinstance(source.train_data, np.ndarray)
    # The mean and standard deviation that everybody quotes.
    assert source.train_data.mean() / 255 == pytest.approx(0.2860, abs=5e-5)
    assert source.train_data.std() / 255 == pytest.approx(0.3530, abs=5e-5)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_layouts(tmp_path: Path, name: str) -> None:
    train, test = write_cifar(tmp_path, name)
    source = load_source(name, root=tmp_path)
    last = source.num_classes - 1
    np.testing.assert_array_equal(source.train_data, train.reshape(-1, 3, 32, 32))
    np.testing.assert_array_equal(source.test_data, test.reshape(-1, 3, 32, 32))
    assert source.test_labels.tolist() == [0, 1, 2, last]
    assert source.classes[last] == f"class {last}"


def test_svhn_layout(tmp_path: Path) -> None:
    images = rng.integers(0, 256, (32, 32, 3, 3), dtype=np.uint8)
    for part in ("train", "test"):
        savemat(tmp_path / f"{part}_32x32.mat", {"X": images, "y": [[10], [1], [2]]})
    source = load_source("svhn", root=tmp_path)
    np.testing.assert_array_equal(source.train_data, images.transpose(3, 2, 0, 1))
    assert source.test_labels.tolist() == [0, 1, 2]


def test_image_size_takes_area_averages(tmp_path: Path) -> None:
    arrays = write_idx(tmp_path / "MNIST" / "raw")
    source = load_source("mnist", root=tmp_path, image_size=14)
    blocks = arrays["train-images-idx3"].reshape(20, 14, 2, 14, 2).astype(float)
    assert isinstance(source.train_data, np.ndarray)
    np.testing.assert_array_equal(source.train_data[:, 0], np.rint(blocks.mean(axis=(2, 4))))
    assert source.image_size == 14
    with pytest.raises(ValueError, match="image_size=29 is larger than the 28 pixels of mnist"):
        load_source("mnist", root=tmp_path, image_size=29)
    with pytest.raises(ValueError, match="image_size must be >= 1 pixel, got 0"):
        load_source("mnist", root=tmp_path, image_size=0)


def test_an_empty_root_is_not_the_current_folder() -> None:
    with pytest.raises(ValueError, match=r"^root names no folder \(it is empty\); leave it out"):
        load_source("digits", root=cast(Path, ""))


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown data set 'cifar'; choose one of digits, mnist"):
        load_source("cifar")


def test_default_root_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("METAMIXUP_DATA", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("METAMIXUP_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_root() == tmp_path / "cache" / "metamixup-hpo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_root() == Path.home() / ".cache" / "metamixup-hpo"


# ----------------------------------------------------------------------------------- download


DOWNLOADED = ["mnist", "fashion_mnist", "svhn", "cifar10", "cifar100"]


@pytest.mark.parametrize("name", DOWNLOADED)
def test_no_network_names_every_missing_file(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.data.torchvision_compat import torchvision

    timeouts = []

    def fail(*args: Any, **kwargs: Any) -> None:
        timeouts.append(socket.getdefaulttimeout())
        raise URLError("Name or service not known")

    utils = torchvision.datasets.utils
    monkeypatch.setattr(utils, "download_url", fail)
    with pytest.raises(FileNotFoundError, match=r"the download failed .*Name or service") as caught:
        load_source(name, root=tmp_path)
    for file in DATASETS[name].files:
        assert str(tmp_path / file) in str(caught.value)
    assert ("dataset-fashion-mnist" in str(caught.value)) == (name == "fashion_mnist")
    # A dead network is noticed soon, and the process's own setting is left alone.
    assert all(seconds is not None and seconds <= 15 for seconds in timeouts)
    assert len(timeouts) <= 2
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("name", DOWNLOADED)
def test_download_off_names_every_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match="download is off") as caught:
        load_source(name, root=tmp_path, download=False)
    for file in DATASETS[name].files:
        assert str(tmp_path / file) in str(caught.value)


def test_only_the_missing_file_is_asked_for(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw", ".gz")
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load_source("mnist", root=tmp_path, download=False)
    assert "t10k-labels-idx1-ubyte" in str(caught.value)
    assert "train-images" not in str(caught.value)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Yields the address of a web server of the files in tmp_path/server."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    folder = tmp_path / "server"
    folder.mkdir()
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def test_mnist_is_fetched_from_the_mirror_that_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    from core.data.torchvision_compat import torchvision

    folder = tmp_path / "server"
    arrays = write_idx(folder, ".gz")
    mnist = torchvision.datasets.MNIST
    monkeypatch.setattr(mnist, "mirrors", [f"{server}/dead/", f"{server}/"])
    files = [f"{name}-ubyte.gz" for name in IDX]
    monkeypatch.setattr(mnist, "resources", [(file, md5(folder / file)) for file in files])
    source = load_source("mnist", root=tmp_path / "root")
    assert isinstance(source.train_data, np.ndarray)
    np.testing.assert_array_equal(source.train_data[:, 0], arrays["train-images-idx3"])


# Python 3.12 and 3.13 want torchvision to name a filter for the archive.
@pytest.mark.filterwarnings("ignore:.*extract:DeprecationWarning")
def test_cifar_is_fetched_checked_and_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    from core.data.torchvision_compat import torchvision

    train, _ = write_cifar(tmp_path / "made", "cifar100")
    archive = tmp_path / "server" / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-100-python", "cifar-100-python")
    cifar = torchvision.datasets.CIFAR100
    monkeypatch.setattr(cifar, "url", f"{server}/{archive.name}")
    with pytest.raises(FileNotFoundError, match=r"download failed .*corrupted"):
        load_source("cifar100", root=tmp_path / "root")
    monkeypatch.setattr(cifar, "tgz_md5", md5(archive))
    source = load_source("cifar100", root=tmp_path / "root")
    np.testing.assert_array_equal(source.train_data, train.reshape(-1, 3, 32, 32))
