"""Ray's own processes: a worker stands still, or is killed; who may reach a cluster started here.

The calm study trains in this process, without Ray. `test_table2.py` kills and interrupts drivers.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpo.run import run_study
from studies.table2 import rows
from tests.support.processes import family, listening
from tests.support.scripts import ROOT
from tests.support.stores import results_of
from tests.system.faults.bench import Bench

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

FLAGS = ["--preset", "smoke", "--seeds", "1", "--epochs", "12"]
FLAGS += ["--rows", "none,metamixup,frozen", "--workers", "1"]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, bench: Bench) -> Path:
    out = tmp_path_factory.mktemp("calm")
    assert run_study("table2", rows(), "", [*FLAGS, "--output", str(out)]) == 0
    bench.assert_as_calm(out, out, study="table2")
    return out


def test_a_worker_that_stands_still_is_waited_for_and_one_that_is_killed_replaced(
    calm: Path, bench: Bench, empty_store: Path, tmp_path: Path
) -> None:
    """And nothing of the Ray that was started is to be reached from elsewhere."""
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(empty_store, out / "mlflow.db")
    command = [sys.executable, str(ROOT / "studies" / "table2.py"), *FLAGS]
    with subprocess.Popen(
        [*command, "--output", str(out)],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as driver:  # fmt: skip
        killed = 0
        while driver.poll() is None and not killed:
            if results_of(out) and (workers := workers_of(driver.pid)):
                os.kill(workers[0], signal.SIGSTOP)
                time.sleep(1)
                os.kill(workers[0], signal.SIGCONT)
                time.sleep(0.1)
                os.kill(workers[0], signal.SIGKILL)
                killed = workers[0]
                addresses = listening(driver.pid)
            time.sleep(0.02)
        _, stderr = driver.communicate(timeout=600)
    assert killed
    assert driver.returncode == 0, stderr
    bench.assert_as_calm(out, calm, study="table2")
    assert len(addresses) >= 3
    hosts = {address.rpartition(":")[0] for address in addresses}
    # 127.0.0.1, as such and in IPv6, and ::1
    ours = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert hosts <= ours


def workers_of(driver: int) -> list[int]:
    """Returns the processes that train."""
    return [p for p in family(driver) if command_of(p).startswith("ray::ImplicitFunc")]


def command_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().decode()
    except OSError:  # it has ended
        return ""
