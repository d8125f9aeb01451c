"""`ray up`, `ray submit` and `ray job submit` with local.yaml, over a real sshd and rsync here.

Everything is the test's own: sshd on a free port with a throwaway key, a home folder, a Ray whose
files lie below it. Whatever it started is found again by that folder; `ray stop` is never run.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.support.processes import free_port, http_status
from tests.support.ray_command import ray, trained
from tests.support.scripts import ROOT

SSHD = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")
TOKEN = "f3a8c1d2e4b54f6a9b7c8d9e0f1a2b3c"
DASHBOARD = find_spec("aiohttp_cors") is not None

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
    pytest.mark.skipif(
        SSHD is None or shutil.which("rsync") is None or shutil.which("ssh") is None,
        reason="needs sshd, ssh and rsync (Debian: openssh-server, rsync)",
    ),
]


@dataclass(frozen=True)
class Launched:
    """A Ray that `ray up` started for whoever has the token: its launcher and server of jobs."""

    launcher: Path
    jobs: str

    def status(self, token: str | None) -> int:
        """Returns what the server of jobs says to someone who has this token, or none."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return http_status(f"{self.jobs}/api/jobs/", headers)


@pytest.fixture(scope="module")
def ssh(home: Path) -> Iterator[Path]:
    """Yields the folder of an `ssh` that reaches an sshd of our own, whose sessions live in
    `home`."""
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # sshd insists
    folder = home / "bin"
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(key, check=True)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    port = free_port()
    (folder / "config").write_text(
        f"""ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
PidFile none
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
SetEnv HOME={home} RAY_TMPDIR={home}
"""
    )
    shim = folder / "ssh"
    shim.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F none -p {port} "$@"\n')
    shim.chmod(0o700)
    assert SSHD is not None
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=log)
    try:
        for _ in range(100):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if server.poll() is not None:
                pytest.skip(f"sshd does not run here: {(folder / 'log').read_text()}")
            time.sleep(0.1)
        yield folder
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def launched(home: Path, ssh: Path) -> Launched:
    """Returns a small Ray on ports of its own, beside whatever runs on this machine."""
    config = yaml.safe_load((ROOT / "hpo/cluster/launchers/local.yaml").read_text())
    config["auth"] = {
        "ssh_user": pwd.getpwuid(os.getuid()).pw_name,
        "ssh_private_key": str(ssh / "user"),
    }
    # The package is there: the interpreter of this test is the virtual environment of the host.
    *installing, settings = config["setup_commands"]
    assert len(installing) == 2
    config["setup_commands"] = [settings]
    (home / "metamixup-venv").symlink_to(sys.prefix)
    path = os.environ.get("PYTHONPATH")
    # Ray's workers yield to everything else by default: on a busy machine they never get on.
    shell = "export RAY_worker_niceness=0\n" + (f"export PYTHONPATH={path}\n" if path else "")
    (home / ".bashrc").write_text(shell)
    port, dashboard = free_port(), free_port()
    (start,) = config["head_start_ray_commands"]
    config["head_start_ray_commands"] = [
        start.replace("6379", f"{port}")
        + f" --num-cpus=1 --object-store-memory={128 * 2**20}"
        + (f" --dashboard-port={dashboard}" if DASHBOARD else " --include-dashboard=false")
        + f" --dashboard-agent-listen-port={free_port()}"
        + (f" --ray-client-server-port={free_port()}" if find_spec("grpc") else "")
    ]
    launcher = home / "local.yaml"
    launcher.write_text(yaml.safe_dump(config))
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(TOKEN)
    ray(home, "up", "-y", "--no-config-cache", str(launcher))
    assert (home / "metamixup-hpo/studies/table2.py").exists()
    assert not (home / "metamixup-hpo/.git").exists()
    return Launched(launcher, f"http://127.0.0.1:{dashboard}")


def flags(output: Path, row: str, store: Path) -> list[str]:
    """Returns those of a study of one training, whose store of runs is there."""
    output.mkdir()
    shutil.copy(store, output / "mlflow.db")
    return f"--dataset digits --preset smoke --seeds 1 --rows {row} --output {output}".split()


def test_ray_submit_trains_a_table_on_a_host_reached_by_ssh(
    home: Path, launched: Launched, empty_store: Path
) -> None:
    output = home / "submitted"
    submit = ("submit", "--no-config-cache", str(launched.launcher), "studies/table2.py", "--")
    assert "look at the runs" in ray(home, *submit, *flags(output, "metamixup", empty_store))
    trained(output, "metamixup")
    assert [path.name for path in home.glob("*.py")] == ["table2.py"], "the script alone is copied"


@pytest.mark.skipif(not DASHBOARD, reason="needs ray[default] (pip install '.[cluster]')")
def test_a_job_trains_a_table_for_whoever_has_the_token(
    home: Path, launched: Launched, empty_store: Path
) -> None:
    """A study on a cluster without tokens is in test_two_nodes.py."""
    # Nobody writes to this tree between the reckoning of its name and the upload.
    command = partial(ray, home, cwd=home / "metamixup-hpo")
    output = home / "job"
    script = ["python", "studies/table2.py", *flags(output, "none", empty_store)]
    job = ["job", "submit", "--address", launched.jobs, "--working-dir", ".", "--", *script]
    assert [launched.status(token) for token in (None, "wrong", TOKEN)] == [401, 403, 200]
    refused = command(*job, refused=True, RAY_AUTH_MODE="disabled")
    assert "401" in refused or "Authentication required" in refused
    assert [path.name for path in output.iterdir()] == ["mlflow.db"]
    printed = command(*job, RAY_AUTH_MODE="token")
    assert "look at the runs" in printed
    assert TOKEN not in printed
    [record] = trained(output, "none")
    assert record.environment["node"], "it ran on a node of that Ray"
