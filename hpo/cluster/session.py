"""A session joins a Ray cluster or starts one in this process, and sees that cells fit on it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray._private import ray_constants, services

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


_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""How a client of HTTP/2, which Ray speaks, begins; the answer is a frame of type 4 (RFC 9113)."""


def check_cluster(address: str | None) -> None:
    """Raises unless the cluster that Ray would join answers within five seconds.

    Ray itself waits for a quarter of an hour, deaf to Ctrl-C and SIGTERM. Passes where there is
    nothing to join, and a cluster will be started.

    Args:
        address: HOST:PORT, "auto" or "local"; None is Ray's own choice: `RAY_ADDRESS`, or the
            cluster that `ray start` left on this machine.

    Raises:
        ConnectionError: nothing answers, or what answers is no cluster of Ray.
        ValueError: it is no address that a study can join.
    """
    variable = os.environ.get("RAY_ADDRESS") or None
    if address in (None, "auto") and variable is not None:
        address, given, way_out = variable, f"RAY_ADDRESS={variable}", "unset RAY_ADDRESS"
    elif address is not None:
        given, way_out = f"--address {address}", "leave --address out"
    else:
        given, way_out = "the cluster of `ray start`", "run `ray stop`"
    way_out = f"start one with `ray start --head`, or {way_out} to use this machine"
    scheme, separator, _ = (address or "").partition("://")
    if separator and scheme == "ray":
        raise ValueError(
            f"{given}: a study drives Tune in its own process and cannot run through Ray Client; "
            "run it on the head node with --address auto, or use `ray job submit`"
        )
    if separator:
        raise ValueError(
            f"{given}: a study joins HOST:PORT, and {scheme}:// is for `ray job submit`; {way_out}"
        )
    try:
        joined = services.canonicalize_bootstrap_address(address)
    except (ConnectionError, OSError, ValueError) as error:
        raise ConnectionError(f"{given}: no Ray cluster is there ({error}); {way_out}") from error
    if joined is None:
        return
    host, _, port = joined.rpartition(":")
    where = "" if joined == address else f" at {joined}"
    try:
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return
            connection.sendall(_GREETING)
            answer = connection.recv(9)
    except (OSError, OverflowError, ValueError) as error:
        raise ConnectionError(
            f"{given}: no Ray cluster answers{where} ({error}); {way_out}"
        ) from error
    if answer[3:4] != b"\x04":
        raise ConnectionError(f"{given}: what answers{where} is no Ray cluster; {way_out}")


@contextmanager
def session(demand: Demand) -> Iterator[Session]:
    """Runs Ray for the time of a study, quietly; what was started or joined here ends with it.

    Raises:
        StudyError: the cluster cannot be joined or started, or no node of it has room for one cell.
    """
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
        check_cluster(demand.address)
    except (ConnectionError, ValueError) as error:
        raise StudyError(str(error)) from error
    if demand.address is not None:
        try:
            ray.init(address=demand.address, **_QUIET)
        except (ConnectionError, RuntimeError) as error:
            raise StudyError(
                f"cannot join the Ray cluster at {demand.address}: {error}; if it asks for a "
                "token, as clusters of Ray 2.60 do, have it in ~/.ray/auth_token and set "
                "RAY_AUTH_MODE=token"
            ) from error
        return False
    try:
        with _loopback_only():
            ray.init(
                num_cpus=here * demand.threads,
                include_dashboard=False,
                object_store_memory=max(128 * _MIB, 2 * demand.data_bytes + 64 * _MIB),
                **_QUIET,
            )
    except ValueError:  # there is a cluster here, and its resources are set
        ray.init(**_QUIET)
        return False
    except Exception as error:  # of no kind to tell apart: Ray gives its parts 30 seconds to start
        raise StudyError(
            f"Ray did not start: {error} Is this machine overloaded or out of memory? Run the same "
            "command again to go on"
        ) from error
    return True


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
