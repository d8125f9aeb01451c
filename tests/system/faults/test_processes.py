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
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hpo.run import run_study
from studies.table2 import rows

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

Bench = Any  # of conftest.py

ROOT = Path(__file__).resolve().parents[3]
FLAGS = ["--preset", "smoke", "--seeds", "1", "--search-trials", "3", "--epochs", "20"]
FLAGS += ["--rows", "none,beta-search,metamixup,frozen", "--workers", "1"]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, bench: Bench, empty_store: Path) -> Path:
    out = tmp_path_factory.mktemp("calm")
    shutil.copy(empty_store, out / "mlflow.db")
    assert run_study("table2", rows(), "", [*FLAGS, "--output", str(out)]) == 0
    bench.assert_as_calm(out, out, study="table2")
    return out


def stored(out: Path) -> int:
    return len(list(out.glob("cells/*/result.json")))


def test_a_worker_that_stands_still_is_waited_for_and_one_that_is_killed_replaced(
    calm: Path, bench: Bench, empty_store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(empty_store, out / "mlflow.db")
    command = [sys.executable, str(ROOT / "studies" / "table2.py"), *FLAGS]
    with subprocess.Popen(
        [*command, "--output", str(out)],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "RAY_worker_niceness": "0"},
    ) as driver:  # fmt: skip
        killed = 0
        while driver.poll() is None and not killed:
            if stored(out) and (workers := workers_of(driver.pid)):
                os.kill(workers[0], signal.SIGSTOP)
                time.sleep(1)
                os.kill(workers[0], signal.SIGCONT)
                time.sleep(0.1)
                os.kill(workers[0], signal.SIGKILL)
                killed = workers[0]
            time.sleep(0.02)
        _, stderr = driver.communicate(timeout=600)
    assert killed
    assert driver.returncode == 0, stderr
    bench.assert_as_calm(out, calm, study="table2")


def workers_of(driver: int) -> list[int]:
    """The processes that train."""
    return [p for p in descendants(driver) if command_of(p).startswith("ray::ImplicitFunc")]


def command_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().decode()
    except OSError:  # it has ended
        return ""


def descendants(process: int) -> list[int]:
    """All processes that it started, and those that they started."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = [process]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def listening(process: int) -> set[str]:
    """The addresses, as the kernel writes them, at which it waits for connections."""
    found = set()
    with suppress(OSError):
        sockets = {os.readlink(path) for path in Path(f"/proc/{process}/fd").iterdir()}
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == "0A" and f"socket:[{columns[9]}]" in sockets:
                    found.add(columns[1])
    return found


HOLD = """
from hpo.cluster.session import Demand, session
with session(Demand(None, 1, 1, 0.0, 0)):
    import ray
    print(ray.get(ray.remote(lambda: "ready").remote()), flush=True)
    input()
"""


def test_a_cluster_started_here_is_not_to_be_reached_from_elsewhere() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as driver:  # fmt: skip
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n"
        found = set().union(*map(listening, [driver.pid, *descendants(driver.pid)]))
        driver.communicate("\n", timeout=120)
    assert driver.returncode == 0
    assert len(found) >= 3
    hosts = {address.rpartition(":")[0] for address in found}
    # 127.0.0.1, as such and in IPv6, and ::1
    ours = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert hosts <= ours
