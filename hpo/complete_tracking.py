"""Send an MLflow store what it missed of the studies in an output folder, and train nothing.

python -m hpo.complete_tracking DIR
python -m hpo.complete_tracking DIR --tracking-uri http://127.0.0.1:5000
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hpo.storage import output_folder
from hpo.tracking.journal import Journal
from hpo.tracking.store import (
    TrackingError,
    check_tracking_uri,
    default_tracking_uri,
    first_line,
    mlflow_settings,
    shown_uri,
    store_errors,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and send.

    Returns:
        The exit status: 0 if nothing waits any more, 1 if files were refused, 2 if the store or the
        folder cannot be used, or a study is running there.
    """
    parser = argparse.ArgumentParser(
        prog="python -m hpo.complete_tracking",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("output", metavar="DIR", type=Path, help="output folder of the studies")
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow store (default: as of a study)"
    )
    options = parser.parse_args(arguments)
    output = options.output.resolve()
    uri = options.tracking_uri or default_tracking_uri(output)
    try:
        if not output.is_dir():
            raise ValueError(f"{output} is no folder; give a study's --output")
        with output_folder.locked(output):
            return _complete(output, uri)
    except (ValueError, TrackingError) as error:
        told = first_line(error)
    except store_errors() as error:
        told = first_line(error)
    print(f"error: {told}", file=sys.stderr)
    return 2


def _complete(output: Path, uri: str) -> int:
    journal = Journal(output, uri)
    if not journal.path.exists():
        print(f"nothing waits for {shown_uri(uri)}")
        return 0
    check_tracking_uri(uri)
    from mlflow import MlflowClient

    with mlflow_settings():
        sent = journal.send(MlflowClient(uri), uri)
    print(f"sent to {shown_uri(uri)}: runs {sent.runs}, files {sent.files}")
    for trouble in sent.trouble:
        print(f"error: not sent: {trouble}", file=sys.stderr)
    return 1 if sent.trouble else 0


if __name__ == "__main__":
    sys.exit(main())
