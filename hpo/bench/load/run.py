"""This module runs a load from its command line to its table: many tiny cells, several studies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np

from core.lazy import pandas as pd
from hpo.bench.load.flags import STUDY, USAGE, study_flags
from hpo.bench.load.search import TRIALS, run_search
from hpo.cells.store import CellStore, StoreError
from hpo.command_line.flags import command, cores, program, shared
from hpo.command_line.statuses import INTERRUPTED, UNUSABLE
from hpo.report.markdown import padded_table
from hpo.storage import output_folder
from hpo.storage.atomic import write_atomically, write_csv
from hpo.tracking.stored import runs_of_study
from hpo.tracking.tracker import TrackingError, check_tracking_uri
from hpo.tracking.uris import local_tracking_uri

INCOMPLETE = 1
"""Exit status: something was lost."""

_SETTINGS = ("cells", "concurrent", "workers", "epochs")

ALONE = 20
"""Trainings of each bare loop."""

_DRIVER = (sys.executable, "-m", "hpo.bench.load.driver")
_SERVER_SECONDS = 300.0
_LEGEND = """\
Times are in seconds, memory in bytes; `_cell` is for each cell. lost: cells without a record;
duplicated: runs beyond one for a cell. alone: a training in a bare loop, with as many processes at
a time; overhead: what a worker takes beyond that. driver_cpu and memory are those of the study's
process, mlflow its time in the MLflow writer; memory_cell is the slope without the first fifth."""


def run_load(description: str, arguments: Sequence[str] | None = None) -> int:
    """Runs the studies, checks that nothing is lost, reports; the `main` of `studies/load.py`.

    Args:
        description: the script's docstring, shown by --help.
        arguments: the command line, `sys.argv[1:]` by default.

    Returns:
        The exit status: 0 if every cell has its record and one run that has ended.
    """
    options = parse(description, arguments)
    try:
        with output_folder.locked(options.output):
            return _run(options) if options.search is None else run_search(options)
    except (ValueError, OSError, StoreError, TrackingError) as error:
        print(f"{STUDY}: error: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print(f"\n{STUDY}: interrupted; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED


def parse(description: str, arguments: Sequence[str] | None = None) -> Namespace:
    """Reads the command line; exits with a message on what it does not know."""
    store = "MLflow store (default: of one study DIR/load-1/mlflow.db, else a server started here)"
    parser = command(
        program(STUDY),
        description,
        shared(
            "output",
            workers={"help": "cells at a time of each (default: what fits)"},
            epochs={"default": 1, "help": "of each training (default: 1)"},
            tracking_uri={"help": store},
            address={"help": "Ray cluster to join (default: one for each study)"},
            fresh={"help": "measure again what is measured in DIR"},
        ),
    )
    add = parser.add_argument
    add("--cells", type=int, default=1000, metavar="N", help="of each study (default: 1000)")
    add("--concurrent", type=int, default=1, metavar="N", help="studies at a time (default: 1)")
    rounds = (
        f"instead: a search of {TRIALS} trials that sleep, so many at a time, and one at a time"
    )
    add("--search", type=int, metavar="K", help=rounds)
    add("--asleep", type=float, default=20.0, metavar="S", help="seconds of a trial (default: 20)")
    options = parser.parse_args(arguments)
    for name in ("cells", "concurrent", "workers", "epochs", "search"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    if not 0 <= options.asleep < float("inf"):
        parser.error(f"--asleep must be finite and at least 0, got {options.asleep}")
    options.workers = options.workers or max(1, cores() // options.concurrent)
    options.output = options.output.expanduser().absolute()
    return options


def _run(options: Namespace) -> int:
    if options.tracking_uri is not None:
        check_tracking_uri(options.tracking_uri)
    own_server = options.tracking_uri is None and options.concurrent > 1
    folders = [options.output / f"{STUDY}-{i + 1}" for i in range(options.concurrent)]
    alone = options.output / f"{STUDY}-alone.json"
    if options.fresh:
        for path in (alone, *(folder / USAGE for folder in folders)):
            path.unlink(missing_ok=True)
    _check_settings(options, alone.exists())
    with mlflow_server(options.output) if own_server else nullcontext(options.tracking_uri) as uri:
        missing = [folder for folder in folders if not (folder / USAGE).exists()]
        if missing or not alone.exists():
            write_atomically(alone, json.dumps(_seconds_alone(options)))
            _run_studies(options, missing, uri)
        samples = {folder.name: _samples(folder) for folder in folders}
        seconds = float(json.loads(alone.read_text()))
        lines = [_line(f, options, uri, seconds, samples[f.name]) for f in folders]
    text = to_markdown(lines)
    sampled = pd.concat(samples, names=["study"]).reset_index("study")
    report = options.output / f"{STUDY}.md"
    write_atomically(report, f"# {STUDY}\n\n{text}\n")
    files = [
        write_csv(options.output / f"{STUDY}.csv", pd.DataFrame(lines)),
        write_csv(options.output / f"{STUDY}-samples.csv", sampled),
        report,
    ]
    print(text)
    print("\nfiles: " + ", ".join(os.path.relpath(path) for path in files))
    return 0 if all(map(is_whole, lines)) else INCOMPLETE


def _check_settings(options: Namespace, measured: bool) -> None:
    """Raises ValueError where what is measured in the folder was measured with other settings."""
    path = options.output / f"{STUDY}-settings.json"
    settings = {name: getattr(options, name) for name in _SETTINGS}
    if measured and path.exists():
        for name, before in json.loads(path.read_text()).items():
            if settings[name] != before:
                raise ValueError(
                    f"{options.output} was measured with --{name} {before}, not {settings[name]}; "
                    "say the same, measure again by --fresh, or give another --output"
                )
    write_atomically(path, json.dumps(settings))


def _seconds_alone(options: Namespace) -> float:
    """Returns the mean seconds of a cell in bare loops, as many at a time as the load has workers.

    Raises:
        OSError: a loop failed.
    """
    print(f"{STUDY}: the trainings in a bare loop", file=sys.stderr)
    command = [*_DRIVER, "alone", *study_flags(options, options.output, ALONE)]
    count = options.workers * options.concurrent
    loops = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    printed = [loop.communicate()[0] for loop in loops]
    if any(loop.returncode for loop in loops):
        raise OSError("a training in a bare loop failed")
    return sum(map(float, printed)) / count


def _run_studies(options: Namespace, folders: Sequence[Path], uri: str | None) -> None:
    """Runs the studies of these folders side by side until all have ended."""
    flags = ["--workers", str(options.workers), *(["--fresh"] if options.fresh else [])]
    flags += ["--address", options.address] if options.address is not None else []
    studies = {}
    try:
        for folder in folders:
            folder.mkdir(exist_ok=True)
            (folder / USAGE).unlink(missing_ok=True)
            command = [*_DRIVER, "study", *study_flags(options, folder, options.cells), *flags]
            command += ["--tracking-uri", uri or local_tracking_uri(folder)]
            with open(folder / "log.txt", "w") as log:
                studies[folder] = subprocess.Popen(command, stdout=log, stderr=log)
            print(f"{STUDY}: {options.cells} cells, see {folder / 'log.txt'}", file=sys.stderr)
        for folder, study in studies.items():
            if study.wait():
                print(f"{STUDY}: {folder.name} failed; see its log.txt", file=sys.stderr)
    finally:
        for study in studies.values():  # Ctrl-C has reached them too
            study.terminate()
            study.wait()


def _samples(folder: Path) -> pd.DataFrame:
    """Returns what a study's process noted; empty where it came to no end."""
    path = folder / USAGE
    samples = json.loads(path.read_text())["samples"] if path.exists() else []
    frame = pd.DataFrame(samples, columns=["cells", "seconds", "memory", "processor", "store"])
    return frame.rename(columns={"processor": "driver_cpu_seconds", "store": "mlflow_seconds"})


def _line(
    folder: Path, options: Namespace, uri: str | None, alone: float, samples: pd.DataFrame
) -> dict[str, float | str]:
    """Returns what became of one study, as a line of the CSV."""
    records = [record for record in CellStore(folder).records() if record.status == "finished"]
    identity = output_folder.study_id(folder, STUDY)
    runs = runs_of_study(uri or local_tracking_uri(folder), STUDY, identity)
    counts = Counter(run.tags["cell_id"] for run in runs if run.tags.get("kind") == "cell")
    total = sum(counts.values())
    return {
        "study": folder.name,
        "cells": options.cells,
        "finished": len(records),
        "lost": options.cells - len(records),
        "mlflow_runs": total,
        "duplicated_runs": total - len(counts),
        "runs_not_ended": sum(run.status in ("RUNNING", "SCHEDULED") for run in runs),
        "workers": options.workers,
        "training_seconds": sum(record.result.train_seconds for record in records),
        "alone_seconds_cell": alone,
        **usage(samples, options.workers, alone),
    }


def usage(samples: pd.DataFrame, workers: int, alone: float) -> dict[str, float]:
    """Returns what a study's process took between its first cell's start and its last one's end.

    Args:
        samples: cells, seconds, memory (bytes), driver_cpu_seconds and mlflow_seconds.
        workers: cells that it trained at a time.
        alone: seconds of a training in a bare loop.
    """
    if samples.empty:
        return {}
    last = samples.iloc[-1]
    # The first fifth loads what every process loads once.
    late = samples[samples["cells"] >= last["cells"] / 5]
    slope = np.polyfit(late["cells"], late["memory"], 1)[0] if len(late) > 2 else np.nan
    return {
        "measured_cells": last["cells"],
        "seconds": last["seconds"],
        "overhead_seconds_cell": workers * last["seconds"] / last["cells"] - alone,
        "driver_cpu_seconds_cell": last["driver_cpu_seconds"] / last["cells"],
        "mlflow_seconds_cell": last["mlflow_seconds"] / last["cells"],
        "mlflow_share": last["mlflow_seconds"] / last["seconds"],
        "memory_start": samples["memory"].iloc[0],
        "memory_end": last["memory"],
        "memory_cell": slope,
    }


def is_whole(line: dict[str, float | str]) -> bool:
    """Returns whether a study came to its end, and every cell has its record and one run that has
    ended."""
    none_lost = line["finished"] == line["mlflow_runs"] == line["cells"]
    one_each = line["duplicated_runs"] == line["runs_not_ended"] == 0
    return none_lost and one_each and "measured_cells" in line


def to_markdown(lines: Sequence[dict[str, float | str]]) -> str:
    """Returns the table for people, a column for each study, and what its rows say."""
    header, *rows = pd.DataFrame(lines).T.itertuples()
    cells = [[row[0], *(f"{value:.4g}" for value in row[1:])] for row in rows]
    return f"{padded_table(header, cells)}\n\n{_LEGEND}"


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Runs an MLflow server on loopback, on a SQLite file in the folder, and yields its URI.

    It asks for no password: who is to share a server has `mlflow/server.sh`.

    Raises:
        OSError: it did not come up.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    store = f"sqlite:///{(folder / 'load-mlflow.db').as_posix()}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--backend-store-uri", store, "--workers", "2"]
    command += ["--artifacts-destination", str(folder / "load-mlartifacts")]
    # Its seven processes for jobs, which nobody here gives it, would use what is measured.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = folder / "load-server.txt"
    with open(log, "w") as out:
        server = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        begun = time.monotonic()
        while True:
            try:
                check_tracking_uri(uri)
                break
            except TrackingError as error:
                if server.poll() is not None or time.monotonic() - begun > _SERVER_SECONDS:
                    raise OSError(f"the MLflow server did not come up; see {log}") from error
                time.sleep(0.5)
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # its workers are processes too
        server.wait()
