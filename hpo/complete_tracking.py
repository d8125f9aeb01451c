"""Send an MLflow store what it missed of the studies in an output folder, and train nothing.

python -m hpo.complete_tracking DIR
python -m hpo.complete_tracking DIR --tracking-uri http://127.0.0.1:5000 --storage s3://bucket/table2
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpo.cells.cell import NAME
from hpo.cells.record import CellRecord
from hpo.cells.store import CellStore, StoreError
from hpo.cells.summary import SummaryRow
from hpo.command_line.flags import command, folder, shared
from hpo.command_line.statuses import INTERRUPTED
from hpo.storage import output_folder
from hpo.storage.places import storage_at
from hpo.storage.protocol import Storage
from hpo.storage.shown import shown_uri
from hpo.tracking.missing import Missing
from hpo.tracking.store import check_tracking_uri, store_errors
from hpo.tracking.tracker import StudyTracker, TrackingError, default_tracking_uri
from hpo.tracking.uris import first_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and sends.

    Returns:
        The exit status: 0 if nothing is missing any more, 1 if something could not be sent, 2 if
        the store or the folder cannot be used, or a study is running there, 130 if interrupted.
    """
    store = shared(
        tracking_uri={"help": "MLflow store (default: as of a study)"},
        storage={"help": "where the cells are (default: DIR)"},
    )
    parser = command("python -m hpo.complete_tracking", __doc__, store)
    parser.add_argument("output", metavar="DIR", type=folder, help="output folder of the studies")
    options = parser.parse_args(arguments)
    output = options.output.resolve()
    uri = options.tracking_uri or default_tracking_uri(output)
    try:
        if not output.is_dir():
            raise ValueError(f"{output} is no folder; give a study's --output")
        with output_folder.locked(output):
            return send_missing(output, uri, storage_at(options.storage or output))
    except (ValueError, TrackingError) as error:
        message = first_line(error)
    except store_errors() as error:
        message = first_line(error)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    print(f"error: {message}", file=sys.stderr)
    return 2


def send_missing(output: Path, uri: str, storage: Storage) -> int:
    """Sends the store what it lacks of the folder's studies, whose records are in ``storage``.

    Returns:
        The exit status: 1 if something could not be sent, which is said on standard error.

    Raises:
        TrackingError: the store cannot be used.
    """
    ledgers = Missing.all_in(output, uri)
    troubles = [
        f"{path} is of an earlier version; run its study again, without --fresh, which trains "
        "nothing twice, and delete that file"
        for path in output.glob("mlflow-pending*.jsonl")
    ]
    if not ledgers and not troubles:
        others = sorted(path.name for path in output.glob("mlflow-pending-*.json"))
        told = f"; {', '.join(others)} there wait for another store" if others else ""
        print(f"nothing waits for {shown_uri(uri)}{told}")
        return 0
    check_tracking_uri(uri)
    runs = sum(len(ledger.runs) for ledger in ledgers)
    files = sum(len(ledger.files) for ledger in ledgers)
    for ledger in ledgers:
        troubles += _send(ledger, output, uri, storage)
        runs, files = runs - len(ledger.runs), files - len(ledger.files)
    print(f"sent to {shown_uri(uri)}: runs {runs}, files {files}")
    for trouble in troubles:
        print(f"error: not sent: {trouble}", file=sys.stderr)
    return 1 if troubles else 0


def _send(ledger: Missing, output: Path, uri: str, storage: Storage) -> list[str]:
    """Sends what the ledger names, as its study would have; returns what went wrong."""
    troubles: list[str] = []
    with StudyTracker(
        uri,
        output=output,
        experiment=ledger.experiment,
        study_id=ledger.study_id,
        params=ledger.params,
        storage=storage,
        missing=ledger,
    ) as tracker:
        for key, content in list(ledger.runs.items()):
            try:
                if key.startswith("summary "):
                    tracker.summarise([SummaryRow(**content)], whole=False)
                elif key != "study":
                    tracker.end_cell(_record(key, content, storage))
            except (LookupError, TypeError, ValueError, AttributeError, StoreError) as error:
                troubles.append(f"{key}: {first_line(error)}")
        for name in list(ledger.files):
            path = (output / name).resolve()
            # A ledger from elsewhere must not have any file of this machine sent away.
            if path.is_relative_to(output) and path.is_file():
                tracker.log_figure_files([path])
            else:
                troubles.append(f"{name}: no file of {output}")
        try:
            tracker.close(ledger.status or "KILLED")
        except TrackingError as error:
            troubles.append(str(error))
    return troubles


def _record(cell_id: str, content: Any, storage: Storage) -> CellRecord:
    """Returns the record that the ledger holds, or the one that is stored."""
    if content is not None:
        return CellRecord.from_dict(content)
    record = CellStore(storage).load(cell_id) if NAME.fullmatch(cell_id) else None
    if record is None:
        raise LookupError(f"no record in {storage.uri}; give --storage where it is elsewhere")
    return record


if __name__ == "__main__":
    sys.exit(main())
