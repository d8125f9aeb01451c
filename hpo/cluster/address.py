"""This module asks whether there is a Ray cluster where a study is to join one."""

from __future__ import annotations

import os
import socket

from ray._private import services

_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""How a client of HTTP/2, which Ray speaks, begins; the answer is a frame of type 4 (RFC 9113)."""


def find_cluster(address: str | None) -> str | None:
    """Returns the address of the cluster that Ray would join, which answers within five seconds;
    None where there is nothing to join, and a cluster is to be started.

    Ray itself waits for a quarter of an hour, deaf to Ctrl-C and SIGTERM.

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
        return None
    host, _, port = joined.rpartition(":")
    where = "" if joined == address else f" at {joined}"
    try:
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return str(joined)
            connection.sendall(_GREETING)
            answer = connection.recv(9)
    except (OSError, OverflowError, ValueError) as error:
        raise ConnectionError(
            f"{given}: no Ray cluster answers{where} ({error}); {way_out}"
        ) from error
    if answer[3:4] != b"\x04":
        raise ConnectionError(f"{given}: what answers{where} is no Ray cluster; {way_out}")
    return str(joined)
