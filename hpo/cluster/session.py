"""A session joins a Ray cluster or starts one in this process, and sees that cells fit on it."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from ray._private import ray_constants

from hpo.cluster.address import find_cluster
from hpo.command_line.flags import cores
from hpo.study.study_run import StudyError

_MIB = 1024**2
_QUIET = {"logging_level": logging.ERROR, "log_to_driver": False}


@dataclass(frozen=True)
class Demand:
    """A demand is what a study asks of Ray.

    Attributes:
        address: of a running cluster; None joins one that `ray start`, `ray submit` or `ray job
            submit` provides on this machine, and else starts one that ends with this process.
        workers: cells trained at a time; None for as many as fit.
        threads: CPUs of a cell.
        gpus: GPUs of a cell, or a fraction of one; None to measure what it needs.
        data_bytes: of the data sets, for the object store of a cluster that is started here.
    """

    address: str | None
    workers: int | None
    threads: int
    gpus: float | None
    data_bytes: int


@dataclass(frozen=True)
class Session:
    """A session is a cluster to run on: how many cells at a time, and whether it started here."""

    workers: int
    started_here: bool


@contextmanager
def session(demand: Demand) -> Iterator[Session]:
    """Runs Ray for the time of a study, quietly; what was started or joined here ends with it.

    Raises:
        StudyError: the cluster cannot be joined or started, or no node of it has room for one cell;
            or Ray runs in this process already, which is the caller's and would be shut down.
    """
    if ray.is_initialized():
        raise StudyError(
            "Ray runs in this process already, and a study starts or joins one of its own; call "
            "ray.shutdown() before, or train in this process, without Ray, by workers=0"
        )
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    here = demand.workers or default_workers(demand.threads)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        started = _begin(demand, here)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray has put another in
    try:
        fit = room(demand)
        yield Session(min(here, fit) if started else demand.workers or fit, started)
    finally:
        ray.shutdown()


def _begin(demand: Demand, here: int) -> bool:
    """Joins the cluster that there is, or starts one for so many cells; returns whether it did."""
    try:
        cluster = find_cluster(demand.address)
    except (ConnectionError, ValueError) as error:
        raise StudyError(str(error)) from error
    if cluster is not None:
        try:
            ray.init(address=demand.address, **_QUIET)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise StudyError(
                f"cannot join the Ray cluster at {cluster}: {error}; if it asks for a "
                "token, as clusters of Ray 2.60 do, have it in ~/.ray/auth_token and set "
                "RAY_AUTH_MODE=token"
            ) from error
        return False
    try:
        _give_token()
        with _loopback_only():
            ray.init(
                num_cpus=here * demand.threads,
                include_dashboard=False,
                object_store_memory=max(128 * _MIB, 2 * demand.data_bytes + 64 * _MIB),
                **_QUIET,
            )
    except Exception as error:  # of no kind to tell apart
        raise StudyError(f"Ray did not start: {error}{_why(error)}") from error
    return True


def _why(error: Exception) -> str:
    """Returns what can be done about a Ray that did not start."""
    filters = os.environ.get("PYTHONWARNINGS", "")
    if "error" in filters:
        return f" Its processes end at a warning with PYTHONWARNINGS={filters}; unset that"
    if isinstance(error, OSError) or "AF_UNIX path" in str(error):
        return (
            " It keeps its files in RAY_TMPDIR, else in TMPDIR, else in /tmp; have the first of "
            "these that is set name a folder that can be written, of at most 40 characters"
        )
    return (  # it gives its parts 30 seconds to start
        " Is this machine overloaded or out of memory? Run the same command again to go on"
    )


def _give_token() -> None:
    """Gives Ray a token for its processes where it could not keep one in the home folder.

    It stays for this process's life: Ray's library reads it once.
    """
    given = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if any(name in os.environ for name in given):
        return
    try:
        folder = Path(os.environ.get("HOME") or "~").expanduser() / ".ray"
        if (folder / "auth_token").exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError):  # it cannot be written, or there is none
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Keeps a cluster that is started inside out of reach of other machines.

    On Linux Ray listens on all interfaces, for other nodes to join. What keeps it to 127.0.0.1 on
    Windows and macOS is this switch, which the processes that it starts read in the environment.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    variable = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    value = os.environ.get(variable)
    if value is not None:  # the user has decided
        yield
        return
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[variable] = False, "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[variable]


def default_workers(threads: int) -> int:
    """Returns a worker for each CPU that this process may use, divided by the threads of a cell."""
    return max(1, cores() // threads)


def room(demand: Demand) -> int:
    """Returns how many cells the nodes hold at a time; those to be measured have a GPU each.

    Raises:
        StudyError: not one.
    """
    asked = {"CPU": float(demand.threads), "GPU": 1.0 if demand.gpus is None else demand.gpus}
    asked = {name: amount for name, amount in asked.items() if amount > 0}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fit = sum(
        min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in asked.items())
        for node in nodes
    )
    if fit == 0:
        wanted = ", ".join(f"{amount:g} {name}" for name, amount in asked.items())
        largest = ", ".join(
            f"{max(node.get(name, 0.0) for node in nodes):g} {name}" for name in asked
        )
        raise StudyError(
            f"a cell needs {wanted}, and no node of the Ray cluster has as much (at most "
            f"{largest}); lower --threads or --gpus-per-cell, or choose --device cpu"
        )
    return fit
