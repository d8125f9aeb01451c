from __future__ import annotations

import pickle
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.data import DataFileError, Source, StreamedImages, Transform, load_source
from core.data import streaming as module

WriteTree = Callable[..., np.ndarray]
ORDER = [torch.tensor(rows) for rows in ([5, 0, 19], [7], [3, 3], [18, 1, 2, 11], [4], [9], [0])]


def both(path: Path, image_size: int | None = None) -> tuple[Source, Source]:
    name = f"folder:{path}"
    return (
        load_source(name, image_size=image_size),
        load_source(name, image_size=image_size, memory_limit=0),
    )


@pytest.mark.parametrize("image_size", [None, 4])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_streamed_equals_in_memory(
    tmp_path: Path, write_tree: WriteTree, image_size: int | None, mode: str
) -> None:
    write_tree("train", each=20, mode=mode)
    write_tree("test", mode=mode)
    memory, files = both(tmp_path, image_size)
    files = pickle.loads(pickle.dumps(files))
    subset = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:20]
    here, there = memory.images("train", subset), files.images("train", subset)
    assert isinstance(there, StreamedImages)
    assert len(there) == 20
    assert torch.equal(here.labels, there.labels)
    pairs = zip(here.batches(ORDER), there.batches(ORDER), strict=True)
    for (x, y), (x2, y2) in pairs:
        assert x.dtype == x2.dtype == torch.uint8
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
    assert Transform.fit(here) == Transform.fit(there)


def test_the_order_of_batches_survives_slow_threads(
    tmp_path: Path, write_tree: WriteTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree("train", each=20)
    write_tree("test")
    original = module.decode_chunk
    pause = random.Random(0)

    def slow(*args: Any) -> list[str]:
        time.sleep(pause.random() / 50)
        return original(*args)

    monkeypatch.setattr(module, "decode_chunk", slow)
    monkeypatch.setattr(module, "num_threads", lambda: 8)
    monkeypatch.setattr(module, "_FILES_A_TASK", 2)
    memory, files = both(tmp_path)
    order = list(torch.randperm(40, generator=torch.Generator().manual_seed(0)).split(5))
    expected = memory.images("train").batches(order)
    for (x, y), (x2, y2) in zip(expected, files.images("train").batches(order), strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


def test_a_decoding_error_comes_once_and_in_its_turn(tmp_path: Path, write_tree: WriteTree) -> None:
    write_tree("train", each=20, size=(40, 40))
    write_tree("test", size=(40, 40))
    source = load_source(f"folder:{tmp_path}", memory_limit=0)
    damaged = tmp_path / "train" / "ant" / "007.png"
    damaged.write_bytes(damaged.read_bytes()[:-300])
    before = threading.active_count()
    batches = source.images("train").batches([torch.arange(i, i + 3) for i in range(0, 30, 3)])
    assert len(next(batches)[1]) == 3
    assert len(next(batches)[1]) == 3
    with pytest.raises(DataFileError, match=f"1 image file.*{damaged} .*truncated"):
        next(batches)
    assert list(batches) == []
    assert threading.active_count() == before


def test_a_file_that_changed_its_size_is_named(tmp_path: Path, write_tree: WriteTree) -> None:
    write_tree("train")
    write_tree("test")
    source = load_source(f"folder:{tmp_path}", memory_limit=0)
    write_tree("test", ("ant",), each=1, size=(9, 9))
    with pytest.raises(DataFileError, match=r"000\.png .is 9x9, expected 6x6"):
        list(source.images("test").batches([torch.tensor([0])]))


def test_leaving_early_stops_the_threads(tmp_path: Path, write_tree: WriteTree) -> None:
    write_tree("train")
    write_tree("test")
    source = load_source(f"folder:{tmp_path}", memory_limit=0)
    read = []

    def endless() -> Iterator[torch.Tensor]:
        while True:
            read.append(1)
            yield torch.tensor([0, 1])

    before = threading.active_count()
    batches = source.images("train").batches(endless())
    for _ in range(3):
        next(batches)
    # A few batches ahead, no more: memory stays bounded.
    assert len(read) <= 3 + module._BATCHES_AHEAD
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_streaming_to_a_gpu(tmp_path: Path, write_tree: WriteTree) -> None:
    write_tree("train", each=20)
    write_tree("test")
    _, files = both(tmp_path)
    here = files.images("train").batches(ORDER)
    there = files.images("train", device="cuda").batches(ORDER)
    for (x, y), (gx, gy) in zip(here, there, strict=True):
        assert gx.is_cuda
        assert torch.equal(x, gx.cpu())
        assert torch.equal(y, gy.cpu())
