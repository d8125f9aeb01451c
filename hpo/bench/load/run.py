"""A load from its command line to its report: many tiny cells, several studies on one server."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hpo.bench.load.driver import STUDY, forget_usage, stored_usage
from hpo.bench.load.report import Found, build_table, load_figure, samples_table, to_markdown
from hpo.cells.store import CellStore, StoreError
from hpo.cluster.session import default_workers
from hpo.report.study_figure import save_figure
from hpo.storage import output_folder
from hpo.storage.atomic import write_atomically
from hpo.study.progress import Progress
from hpo.tracking.store import local_tracking_uri, mlflow_settings
from hpo.tracking.stored import stored_runs
from hpo.tracking.tracker import TrackingError, check_tracking_uri

INCOMPLETE, UNUSABLE, INTERRUPTED = 1, 2, 130
"""Exit statuses: something was lost; the load could not run; it was interrupted."""

ALONE = 20
"""Trainings of each bare loop; the first one is not counted."""

_TINY = ("--preset", "smoke", "--train-size", "20", "--meta-size", "10", "--batch-size", "20")
_SERVER_SECONDS = 300.0


@dataclass(frozen=True)
class LoadOptions:
    """What a user asked of a load.

    Attributes:
        cells: of each study.
        concurrent: studies at a time, each a process of its own.
        workers: cells that each study trains at a time.
        epochs: of each training.
        output: absolute path of the folder for everything written.
        tracking_uri: of MLflow; None starts a server where studies share it, and for a single one
            is the file of its folder.
        address: of a Ray cluster that all studies join; None starts one for each.
        fresh: measure again.
    """

    cells: int
    concurrent: int
    workers: int
    epochs: int
    output: Path
    tracking_uri: str | None
    address: str | None
    fresh: bool

    @property
    def folders(self) -> list[Path]:
        """Of the studies."""
        return [self.output / f"{STUDY}-{i + 1}" for i in range(self.concurrent)]

    def flags(self, folder: Path, seeds: int) -> list[str]:
        """Of one study."""
        return [
            *("--dataset", "digits", *_TINY, "--epochs", str(self.epochs)),
            *("--seeds", str(seeds), "--output", str(folder)),
        ]


def run_load(description: str, arguments: Sequence[str] | None = None) -> int:
    """Run the studies, see that nothing is lost, report; the `main` of `studies/load.py`.

    Args:
        description: the script's docstring, shown by --help.
        arguments: the command line, `sys.argv[1:]` by default.

    Returns:
        The exit status: 0 if every cell has its record and one run that has ended.
    """
    options = parse(description, arguments)
    try:
        with output_folder.locked(options.output):
            return _run(options)
    except (ValueError, OSError, StoreError, TrackingError) as error:
        print(f"{STUDY}: error: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print(f"\n{STUDY}: interrupted; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED


def parse(description: str, arguments: Sequence[str] | None = None) -> LoadOptions:
    """Read the command line; exits with a message on what it does not know."""
    parser = argparse.ArgumentParser(
        prog=f"studies/{STUDY}.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--cells", type=int, default=1000, metavar="N", help="of each study (default: 1000)")
    add("--concurrent", type=int, default=1, metavar="N", help="studies at a time (default: 1)")
    add("--workers", type=int, metavar="N", help="cells at a time of each (default: what fits)")
    add("--epochs", type=int, default=1, metavar="N", help="of each training (default: 1)")
    add("--output", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    store = "MLflow store (default: of one study DIR/load-1/mlflow.db, else a server started here)"
    add("--tracking-uri", metavar="URI", help=store)
    add("--address", metavar="ADDRESS", help="Ray cluster to join (default: one for each study)")
    add("--fresh", action="store_true", help="measure again what is measured in DIR")
    args = parser.parse_args(arguments)
    for name in ("cells", "concurrent", "workers", "epochs"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    return LoadOptions(
        cells=args.cells,
        concurrent=args.concurrent,
        workers=args.workers or max(1, default_workers(1) // args.concurrent),
        epochs=args.epochs,
        output=args.output.expanduser().absolute(),
        tracking_uri=args.tracking_uri,
        address=args.address,
        fresh=args.fresh,
    )


def _run(options: LoadOptions) -> int:
    if options.tracking_uri is not None:
        check_tracking_uri(options.tracking_uri)
    if options.concurrent == 1 or options.tracking_uri is not None:
        found = _measured(options, options.tracking_uri)
    else:
        with mlflow_server(options.output) as uri:
            found = _measured(options, uri)
    table, samples = options.output / f"{STUDY}.csv", options.output / f"{STUDY}-samples.csv"
    write_atomically(table, build_table(found).to_csv(index=False))
    write_atomically(samples, samples_table(found).to_csv(index=False))
    report, files = to_markdown(found), [table, samples, options.output / f"{STUDY}.md"]
    write_atomically(files[-1], f"# {STUDY}\n\n{report}\n")
    if any(study.usage is not None for study in found):
        files.append(save_figure(load_figure(found), options.output / f"{STUDY}.png"))
    print(report)
    print("\nfiles: " + ", ".join(os.path.relpath(path) for path in files))
    return 0 if all(study.whole for study in found) else INCOMPLETE


def _measured(options: LoadOptions, uri: str | None) -> list[Found]:
    """Run the studies that were not measured before, and look at what all of them left."""
    missing = [f for f in options.folders if options.fresh or stored_usage(f) is None]
    alone = options.output / f"{STUDY}-alone.json"
    with Progress() as progress:
        progress.total = options.cells * options.concurrent
        progress.workers = options.workers * options.concurrent
        if missing or not alone.exists():
            progress.say(f"{STUDY}: the trainings in a bare loop")
            write_atomically(alone, json.dumps(seconds_alone(options)))
            progress.say(f"{STUDY}: {len(missing)} studies of {options.cells} cells")
            _drive(options, missing, uri, progress)
    seconds = float(json.loads(alone.read_text()))
    return [_found(folder, options, uri, seconds) for folder in options.folders]


def seconds_alone(options: LoadOptions) -> float:
    """Mean seconds of a cell in a bare loop, with as many processes at a time as the load has.

    Raises:
        OSError: a process failed.
    """
    flags = options.flags(options.output, ALONE)
    command = [sys.executable, "-m", "hpo.bench.load.alone", *flags]
    loops = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for _ in range(options.workers * options.concurrent)
    ]
    told = [loop.communicate()[0] for loop in loops]
    if any(loop.returncode for loop in loops):
        raise OSError("a training in a bare loop failed")
    return sum(map(float, told)) / len(told)


def _drive(
    options: LoadOptions, folders: Sequence[Path], uri: str | None, progress: Progress
) -> None:
    """Run the studies of these folders side by side until all have ended."""
    more = ["--workers", str(options.workers)]
    more += ["--tracking-uri", uri] if uri is not None else []
    more += ["--address", options.address] if options.address is not None else []
    more += ["--fresh"] if options.fresh else []
    drivers: list[subprocess.Popen[bytes]] = []
    try:
        for folder in folders:
            folder.mkdir(exist_ok=True)
            forget_usage(folder)
            command = [sys.executable, "-m", "hpo.bench.load.driver"]
            with open(folder / "log.txt", "w") as log:
                flags = options.flags(folder, options.cells)
                drivers.append(subprocess.Popen([*command, *flags, *more], stdout=log, stderr=log))
        while any(driver.poll() is None for driver in drivers):
            running = sum(driver.poll() is None for driver in drivers)
            progress.running = options.workers * running
            progress.done = sum(map(_ended, options.folders))
            progress.update()
            time.sleep(0.5)
    finally:
        for driver in drivers:  # Ctrl-C has reached them too
            driver.terminate()
            driver.wait()
    progress.done, progress.running = sum(map(_ended, options.folders)), 0
    for folder, driver in zip(folders, drivers, strict=True):
        if driver.returncode != 0:
            where = folder / "log.txt"
            progress.say(f"{folder.name} ended with status {driver.returncode}; see {where}")


def _ended(folder: Path) -> int:
    """How many cells have their record."""
    return sum(1 for _ in folder.glob("cells/*/result.json"))


def _found(folder: Path, options: LoadOptions, uri: str | None, alone: float) -> Found:
    from mlflow import MlflowClient

    records = [r for r in CellStore(folder).records() if r.status == "finished"]
    with mlflow_settings():
        client = MlflowClient(uri if uri is not None else local_tracking_uri(folder))
        experiment = client.get_experiment_by_name(STUDY)
        study = output_folder.study_id(folder, STUDY)
        place = None if experiment is None else experiment.experiment_id
        stored = [] if place is None else stored_runs(client, place, study)
    runs = Counter(run.tags["cell_id"] for run in stored if run.tags.get("kind") == "cell")
    return Found(
        name=folder.name,
        cells=options.cells,
        finished=len(records),
        runs=sum(runs.values()),
        duplicates=sum(runs.values()) - len(runs),
        unended=sum(run.status in ("RUNNING", "SCHEDULED") for run in stored),
        training_seconds=sum(float(record.result["train_seconds"]) for record in records),
        workers=options.workers,
        alone=alone,
        usage=stored_usage(folder),
    )


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """An MLflow server on loopback for the time of the block, on a SQLite file in the folder.

    Yields its URI. It asks for no password: who is to share a server has `mlflow/server.sh`.

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
    with open(folder / "load-server.txt", "w") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        begun = time.monotonic()
        while True:
            try:
                check_tracking_uri(uri)
                break
            except TrackingError as error:
                if server.poll() is not None or time.monotonic() - begun > _SERVER_SECONDS:
                    why = f"the MLflow server did not come up; see {folder / 'load-server.txt'}"
                    raise OSError(why) from error
                time.sleep(0.5)
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # its workers are processes too
        server.wait()
