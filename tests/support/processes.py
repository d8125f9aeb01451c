"""Ports, processes and servers of this machine."""

from __future__ import annotations

import os
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


class Killed(BaseException):
    """A process ends here: as in a kill, no handler of the code runs to its end on purpose."""


def free_port() -> int:
    """Returns a port on which nothing listens at the moment."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def family(process: int) -> list[int]:
    """Returns a process, all that it started, and all that those started."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    members = [process]
    for member in members:
        members += children.get(member, [])
    return members


def command_of(process: int) -> str:
    """Returns its command line, or "" where it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().decode()
    except OSError:
        return ""


def workers_of(driver: int) -> list[int]:
    """Returns the processes of Ray's that train for a driver."""
    return [p for p in family(driver) if command_of(p).startswith("ray::ImplicitFunc")]


def listening(process: int) -> set[str]:
    """Returns where a process and its descendants accept connections.

    Returns:
        ADDRESS:PORT of each, both hexadecimal, as the kernel writes them.
    """
    sockets: set[str] = set()
    for member in family(process):
        with suppress(OSError):
            sockets |= {os.readlink(file) for file in Path(f"/proc/{member}/fd").iterdir()}
    tables = [Path(f"/proc/net/{kind}").read_text().splitlines()[1:] for kind in ("tcp", "tcp6")]
    columns = [line.split() for table in tables for line in table]
    return {c[1] for c in columns if c[3] == "0A" and f"socket:[{c[9]}]" in sockets}


def http_status(url: str, headers: Mapping[str, str]) -> int:
    """Returns the status with which a server answers a request."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as ok:
            return int(ok.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
