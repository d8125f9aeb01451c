"""`ray job submit` to a Ray on this machine, with and without a token.

The Ray is the test's own, with its files in a folder by which all its processes are found again;
`ray stop` is never run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from hpo.cells.store import CellStore
from tests.support.processes import free_port, http_status, run_ray
from tests.support.scripts import ROOT

TOKEN = "f3a8c1d2e4b54f6a9b7c8d9e0f1a2b3c"

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
    pytest.mark.skipif(
        find_spec("aiohttp_cors") is None, reason="needs ray[default] (pip install '.[cluster]')"
    ),
]


def status(address: str, token: str | None) -> int:
    """What the server of jobs says to someone who has this token, or none."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return http_status(f"{address}/api/jobs/", headers)


@pytest.mark.parametrize("mode", ["disabled", "token"])
def test_a_job_trains_a_table(mode: str, home: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}",
        "RAY_TMPDIR": str(home),
        "RAY_AUTH_MODE": mode,
        "RAY_USAGE_STATS_ENABLED": "0",
        # By default workers yield to everything else: on a busy machine they never get on.
        "RAY_worker_niceness": "0",
    }
    if mode == "token":
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text(TOKEN)

    tree = home / "tree"  # nobody writes there between the reckoning of its name and the upload
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "results")
    shutil.copytree(ROOT, tree, ignore=ignored)

    def ray(*arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        return run_ray(*arguments, cwd=tree, env={**environment, **changed})

    dashboard = free_port()
    started = ray(
        "start",
        "--head",
        "--node-ip-address=127.0.0.1",
        f"--port={free_port()}",
        f"--dashboard-port={dashboard}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-agent-listen-port={free_port()}",
        f"--ray-client-server-port={free_port()}",
        "--num-cpus=1",
        f"--object-store-memory={128 * 2**20}",
    )
    assert started.returncode == 0, started.stdout
    address, output = f"http://127.0.0.1:{dashboard}", home / "results"
    flags = f"--dataset digits --preset smoke --seeds 1 --rows none --output {output}"
    job = ["job", "submit", "--address", address, "--working-dir", "."]
    job += ["--", "python", "studies/table2.py", *flags.split()]
    expected = {"disabled": (200, 200, 200), "token": (401, 403, 200)}[mode]
    assert tuple(status(address, token) for token in (None, "wrong", TOKEN)) == expected
    if mode == "token":
        refused = ray(*job, RAY_AUTH_MODE="disabled")
        assert refused.returncode != 0
        assert "401" in refused.stdout or "Authentication required" in refused.stdout
        assert not output.exists()
    told = ray(*job)
    assert told.returncode == 0, told.stdout
    assert "look at the runs" in told.stdout
    assert TOKEN not in told.stdout
    table = pd.read_csv(output / "table2.csv")
    assert list(table["method"]) == ["none"]
    assert table["mean_error"].notna().all()
    [record] = CellStore(output).records()
    assert record.environment["node"], "it ran on a node of that Ray"
