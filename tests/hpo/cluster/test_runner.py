"""Cells under Ray Tune: the same numbers as alone, and what happens when a worker fails."""

from __future__ import annotations

import socket
import threading
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from core.data import ImageSet, Source, load_source
from core.policies import Beta, LearnedConfig, NoMix
from core.training.fit import fit
from hpo.cells.record import CellRecord
from hpo.cells.result import PartialResult, Result
from hpo.cells.store import CellStore, StoreError
from hpo.cluster.address import check_cluster
from hpo.cluster.runner import run_on_ray
from hpo.cluster.session import Demand, session
from hpo.search.protocol import SearchSettings
from hpo.storage.folder import FolderStorage
from hpo.study.plan import Plan, source_key
from hpo.study.progress import Progress
from hpo.study.recipes import SEARCHED_ALPHA
from hpo.study.rows import Row, StudyRow
from hpo.study.study_run import StudyError, StudyRun
from hpo.tracking.tracker import StudyTracker
from tests.support.digit_trainings import TINY, numbers
from tests.support.ray_command import RAYS_OWN_WARNINGS

pytestmark = [pytest.mark.slow, RAYS_OWN_WARNINGS]

# The network has dropout, which draws from the process's global stream.
BASE = replace(TINY, meta_size=50, batch_size=25, meta_batch_size=25, lr=0.02)
RECIPES = {
    "none": NoMix(),
    "beta-1": Beta(alpha=1.0),
    "metamixup": LearnedConfig(),
    "beta-search": SEARCHED_ALPHA,
}


@dataclass(frozen=True, eq=False)
class BrokenSource(Source):
    """Fails in the worker, and only there."""

    def images(
        self,
        part: Literal["train", "test"],
        indices: torch.Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> ImageSet:
        raise RuntimeError("the disk of this worker is gone")


@dataclass(frozen=True)
class Studied:
    """What a study with two workers left: its folder, and its records by data set; and how one
    failed whose disk takes no result."""

    output: Path
    records: dict[str, list[CellRecord]]
    failure: Exception


class FullStore(CellStore):
    """A disk that takes no result."""

    def save(self, record: CellRecord) -> None:
        raise StoreError(f"cannot write {record.cell.id}: no space left on device")


def failure_of_a_full_disk(output: Path, digits: Source, demand: Demand) -> Exception:
    rows = [StudyRow(Row("none", "none", "none", "none"), NoMix())]
    plan = Plan("table2", rows, ["digits"], [0], {"digits": BASE}, SearchSettings())
    tracker = StudyTracker(None, output=output, experiment="t", study_id="t", params={})
    run = StudyRun(plan, FullStore(output), tracker, Progress(), {"digits": "d"})
    sources, storage = {("digits", None): digits}, FolderStorage(output)
    with pytest.raises((StoreError, StudyError)) as failed:
        run_on_ray(run, sources, demand, output=output, storage=storage, device="cpu")
    tracker.close("FAILED")
    return failed.value


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Studied:
    """Returns what is left of a study of three data sets: of one a worker's disk is gone, with
    another all diverges. One that fails follows on the same Ray, which takes longer to start."""
    output, digits = tmp_path_factory.mktemp("studied"), load_source("digits")
    fields = {name: getattr(digits, name) for name in Source.__dataclass_fields__}
    sources = {
        "digits": digits,
        "broken": BrokenSource(**{**fields, "name": "broken"}),
        "steep": replace(digits, name="steep"),
    }
    base = {name: replace(BASE, dataset=name) for name in sources}
    base["steep"] = replace(base["steep"], lr=1e8)
    rows = [StudyRow(Row(key, key, key, "beta"), recipe) for key, recipe in RECIPES.items()]
    search = SearchSettings(trials=3, startup=2, min_epochs=1, reduction=2)
    plan = Plan("table2", rows, list(sources), [0, 1], base, search)
    demand = Demand(address=None, workers=2, threads=1, gpus=0, data_bytes=10**6)
    with (
        session(demand) as begun,
        pytest.MonkeyPatch.context() as patch,
        open(output / "progress.txt", "w") as stream,
        StudyTracker(None, output=output, experiment="t", study_id="t", params={}) as tracker,
    ):
        fingerprints = {name: source.fingerprint() for name, source in sources.items()}
        run = StudyRun(plan, CellStore(output), tracker, Progress(stream), fingerprints)
        loaded = {source_key(base[name]): source for name, source in sources.items()}
        storage = FolderStorage(output)
        patch.setattr("hpo.cluster.runner.session", lambda _: nullcontext(begun))
        run_on_ray(run, loaded, demand, output=output, storage=storage, device="cpu")
        assert run.finished
        assert run.workers == 2
        failure = failure_of_a_full_disk(tmp_path_factory.mktemp("full"), digits, demand)
    of = {name: [r for r in run.records if r.cell.dataset == name] for name in sources}
    return Studied(output, of, failure)


def test_two_workers_and_alone_give_the_same_numbers(studied: Studied) -> None:
    records, source = studied.records["digits"], load_source("digits")
    assert sum(r.cell.purpose == "search" for r in records) == 3
    assert sum(r.cell.purpose == "final" for r in records) == 8
    assert {r.status for r in records} <= {"finished", "pruned"}
    for record in records:
        alone: Result = fit(record.cell.training, source=source)
        if record.status == "pruned":
            alone = PartialResult.of(alone.history[: len(record.result.history)])
        assert numbers(alone) == numbers(record.result)


def test_cells_that_fail_are_reported_and_the_others_go_on(studied: Studied) -> None:
    broken = studied.records["broken"]
    assert {r.status for r in broken} == {"crashed"}
    assert all("the disk of this worker is gone" in str(r.error) for r in broken)
    assert "the disk of this worker is gone" in (studied.output / "progress.txt").read_text()
    # Crashed cells are tried again next time, so they leave no record.
    assert {r.cell.dataset for r in CellStore(studied.output).records()} == {"digits", "steep"}


def test_cells_that_diverge_keep_the_epochs_before(studied: Studied) -> None:
    steep = studied.records["steep"]
    assert {r.status for r in steep} == {"diverged"}
    assert all("lower the learning rate" in str(r.error) for r in steep)
    assert all(isinstance(r.result, PartialResult) for r in steep)
    assert np.isfinite([r.result.train_seconds for r in steep]).all()


def test_what_fails_in_the_driver_keeps_its_message(studied: Studied) -> None:
    assert isinstance(studied.failure, StoreError)
    assert "no space left on device" in str(studied.failure)


def test_addresses_that_cannot_work_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:9: no Ray.*start --head.*--address"):
        check_cluster("127.0.0.1:9")
    with pytest.raises(ConnectionError, match="nowhere"):
        check_cluster("nowhere")
    with pytest.raises(ValueError, match="ray job submit"):
        check_cluster("ray://127.0.0.1:10001")
    for address in (None, "auto"):
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
        with pytest.raises(ConnectionError, match=r"^RAY_ADDRESS=127\.0\.0\.1:9: .*unset RAY"):
            check_cluster(address)
        monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
        with pytest.raises(ValueError, match=r"^RAY_ADDRESS=http.*http:// is for `ray job submit`"):
            check_cluster(address)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    check_cluster(None)


@pytest.mark.parametrize("answer", [b"SSH-2.0-x\r\n", b"HTTP/1.1 400 Bad\r\n", b""])
def test_what_listens_and_is_no_ray_is_not_waited_for(answer: bytes) -> None:
    with socket.create_server(("", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(64)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        with pytest.raises(ConnectionError, match=f":{port}: (what answers|no Ray cluster)"):
            check_cluster(f"127.0.0.1:{port}")
        thread.join()


def test_a_session_asks_before_ray_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    demand = Demand(address=None, workers=1, threads=1, gpus=0, data_bytes=0)
    with pytest.raises(StudyError, match="RAY_ADDRESS=127"), session(demand):
        pass
