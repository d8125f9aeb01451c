from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.system.faults.bench import Bench, patched


@pytest.fixture(scope="module")  # in a folder that is no package, "package" is the session
def bench() -> Iterator[Bench]:
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        yield patched(patch)
    torch.set_num_threads(threads)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Returns the output folder of a study."""
    out = tmp_path / "out"
    out.mkdir()
    return out


@pytest.fixture(scope="module")  # in a folder that is no package, "package" is the session
def calm(tmp_path_factory: pytest.TempPathFactory, bench: Bench) -> Path:
    """Returns the output folder of a study that nothing disturbed."""
    out = tmp_path_factory.mktemp("calm")
    assert bench.study(out) == 0
    assert bench.told == bench.trained == Bench.cells * Bench.epochs
    bench.assert_as_calm(out, out)
    return out
