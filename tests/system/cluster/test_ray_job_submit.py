"""`ray job submit` to a Ray on this machine, with a token.

The Ray is the test's own, with its files in a folder by which all its processes are found again;
`ray stop` is never run.
"""

from __future__ import annotations

import shutil
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.processes import free_port, http_status
from tests.support.ray_command import ray, trained
from tests.support.scripts import ROOT

TOKEN = "f3a8c1d2e4b54f6a9b7c8d9e0f1a2b3c"

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
    pytest.mark.skipif(
        find_spec("aiohttp_cors") is None, reason="needs ray[default] (pip install '.[cluster]')"
    ),
]


def status(address: str, token: str | None) -> int:
    """Returns what the server of jobs says to someone who has this token, or none."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return http_status(f"{address}/api/jobs/", headers)


def test_a_job_trains_a_table_for_whoever_has_the_token(home: Path) -> None:
    """A study on a cluster without tokens is in test_two_nodes.py."""
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(TOKEN)

    tree = home / "tree"  # nobody writes there between the reckoning of its name and the upload
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "results")
    shutil.copytree(ROOT, tree, ignore=ignored)

    command = partial(ray, home, cwd=tree)
    dashboard = free_port()
    command(
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
        RAY_AUTH_MODE="token",
    )
    address, output = f"http://127.0.0.1:{dashboard}", home / "results"
    flags = f"--dataset digits --preset smoke --seeds 1 --rows none --output {output}"
    job = ["job", "submit", "--address", address, "--working-dir", "."]
    job += ["--", "python", "studies/table2.py", *flags.split()]
    assert [status(address, token) for token in (None, "wrong", TOKEN)] == [401, 403, 200]
    refused = command(*job, refused=True, RAY_AUTH_MODE="disabled")
    assert "401" in refused or "Authentication required" in refused
    assert not output.exists()
    printed = command(*job, RAY_AUTH_MODE="token")
    assert "look at the runs" in printed
    assert TOKEN not in printed
    [record] = trained(output, "none")
    assert record.environment["node"], "it ran on a node of that Ray"
