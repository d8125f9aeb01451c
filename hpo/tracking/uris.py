"""What an MLflow store is called, and what is said of one that does not work."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

from hpo.storage.shown import shown_uri

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""Kinds of stores that this process opens itself, without a server between."""

# What is said of a SQLite file that was cut short or written over, or has half of MLflow's tables.
_DAMAGED = ("is malformed", "is not a database", "already exists", "duplicate column")


class TrackingError(RuntimeError):
    """The MLflow store cannot be used. The message names its URI and the way out."""


def default_tracking_uri(output: Path) -> str:
    """Returns ``MLFLOW_TRACKING_URI``, as everywhere in MLflow, or else `local_tracking_uri`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or local_tracking_uri(output)


def local_tracking_uri(output: Path) -> str:
    """Returns ``sqlite:///`` and the absolute path of ``mlflow.db`` in the folder ``output``.

    As SQLAlchemy reads it: for a path with ``%`` or ``?`` in it plain text would be another file.

    Raises:
        TrackingError: SQLAlchemy is older than 2.1 and cannot open such a path.
    """
    path = (output.resolve() / "mlflow.db").as_posix()
    if not needs_quotes(path):
        return f"sqlite:///{path}"
    import sqlalchemy

    for uri in (f"sqlite:///{quote(path)}", f"sqlite:///{path}"):
        if sqlalchemy.make_url(uri).database == path:
            return uri
    raise TrackingError(
        f"the output folder {output} has a name that SQLAlchemy {sqlalchemy.__version__} cannot "
        "open; choose one without '?', or give --tracking-uri"
    )


def require_address(uri: str | None) -> None:
    """Raises ValueError where a given text is empty, for which MLflow has a default of its own."""
    if uri is not None and not uri.strip():
        raise ValueError(
            "tracking_uri names no store (it is empty); leave it out to record in a SQLite file "
            "under the output folder"
        )


def needs_quotes(path: str) -> bool:
    """Says whether a path is another one as a part of a URI."""
    return "%" in path or "?" in path


def without_user(uri: str) -> str:
    """Returns ``uri`` without user and password: what tells one store from another."""
    return re.sub(r"://[^/?]*@", "://", uri)


def shown_cause(uri: str, error: Exception) -> Exception | None:
    """Returns what a traceback may show as the cause: nothing that may repeat a password."""
    return error if shown_uri(uri) == uri else None


def opening_error(uri: str, experiment: str, error: Exception) -> TrackingError:
    """Returns what is raised where a store fails while an experiment is opened."""
    return TrackingError(
        f"the MLflow store {shown_uri(uri)} failed while opening the experiment {experiment!r}: "
        f"{first_line(error)}. {way_out(uri, error)}"
    )


def is_database(uri: str) -> bool:
    """Returns whether this process itself opens ``uri``, without a server between."""
    return scheme(uri) in DATABASES


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, or its class name, without a final full stop.

    MLflow's own texts repeat the whole address; passwords in them are replaced as in `shown_uri`.
    SQLAlchemy may say first what it was about, in brackets, which nobody needs.
    """
    lines = shown_uri(str(error)).strip().splitlines()
    if len(lines) > 1 and lines[0].startswith("(raised as a result of"):
        lines = lines[1:]
    return (lines[0] if lines else type(error).__name__).rstrip(". ")


def scheme(uri: str) -> str:
    """Returns the kind of store, such as "sqlite"; "" of what is no URI."""
    # postgresql+psycopg2://... names the driver after the plus sign.
    return uri.split(":", 1)[0].split("+", 1)[0].lower() if ":" in uri else ""


def way_out(uri: str, error: Exception) -> str:
    """Returns what a user can do about a store that does not work."""
    default = "or leave out --tracking-uri to record in a SQLite file under the output folder"
    if os.environ.get("MLFLOW_TRACKING_URI") == uri:
        default = default.replace("leave out --tracking-uri", "unset MLFLOW_TRACKING_URI")
    elif scheme(uri) == "sqlite":
        default = "or choose another --output or --tracking-uri"
    if scheme(uri) == "sqlite" and "is locked" in str(error):
        return (
            "Another process holds that file; wait until it has ended, or end it, and run the same "
            "command again: finished cells are kept."
        )
    if scheme(uri) == "sqlite" and any(text in str(error) for text in _DAMAGED):
        return (
            "Move that file away and run the same command again: it records what the output "
            "folder holds in a new one."
        )
    if scheme(uri) == "sqlite" and "is full" in str(error):
        return "Free space and run the same command again: finished cells are kept."
    if scheme(uri) in ("http", "https"):
        port = uri.rstrip("/").rsplit(":", 1)[-1]
        port = port if port.isdigit() else "5000"
        return f"Start the server (mlflow server --port {port}) and try again, {default}."
    if scheme(uri) in DATABASES:
        return f"Check the path or address, the permissions and the database's driver, {default}."
    kinds = "http://HOST:PORT, sqlite:////ABSOLUTE/PATH.db or another database"
    return f"A tracking URI is {kinds}; give one of these, {default}."
