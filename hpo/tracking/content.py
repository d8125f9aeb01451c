"""What the run of a cell or of a summary says: its tags, parameters and metrics."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING

from hpo.cells.gpu_use import GpuUse
from hpo.tracking.details import numbers_of, series_of
from hpo.tracking.run import TrackedRun, flatten
from hpo.tracking.stored import DIGEST, STATUS_OF

if TYPE_CHECKING:
    from hpo.cells.cell import Cell
    from hpo.cells.record import CellRecord
    from hpo.cells.summary import SummaryRow


def digest_of(record: CellRecord) -> str:
    """Returns twelve hexadecimal digits that tell one outcome of a cell from another."""
    text = json.dumps(record.to_dict(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def cell_tags(cell: Cell) -> dict[str, str]:
    """Returns the tags that identify the cell's run."""
    return {
        "kind": "cell",
        "cell_id": cell.id,
        "method": cell.method,
        "dataset": cell.dataset,
        "seed": str(cell.seed),
        "purpose": cell.purpose,
    }


def cell_params(cell: Cell) -> dict[str, str]:
    """Returns the parameters of the cell's run: its whole configuration."""
    population = cell.to_dict().get("population")  # None is left out
    return flatten({"method": cell.method, **cell.training.to_dict(), "population": population})


def finish_cell(run: TrackedRun, record: CellRecord) -> None:
    """Notes in the run all that the record says, epochs included, and its end."""
    result = record.result
    for metrics in result.history:
        run.add_epoch(metrics)
    where = {k: v for k, v in record.environment.items() if k in ("host", "node")}
    tags: dict[str, str] = {"status": record.status, **where}
    if record.status != "crashed":  # such a run goes on when the cell is tried again
        tags[DIGEST] = digest_of(record)
    if record.error or "error" in run.stored_tags:
        tags["error"] = record.error or ""
    use = GpuUse.from_environment(record.environment)
    memory = {} if use is None else {"gpu_peak_bytes": use.peak}
    numbers = {**result.to_dict(), **numbers_of(result), **memory}
    run.finish(STATUS_OF[record.status], numbers, tags, series_of(result))


def summary_tags(row: SummaryRow) -> dict[str, str]:
    """Returns the tags that identify the run of a method on a data set."""
    return {"kind": "summary", "method": row.method, "dataset": row.dataset}


def finish_summary(run: TrackedRun, row: SummaryRow) -> None:
    """Notes in the run what the row says; a value that is not known is left out.

    One that an earlier command knew, and this one does not, becomes NaN.
    """
    metrics = {
        "mean_error": row.mean_error,
        "ci_low": row.ci_low,
        "ci_high": row.ci_high,
        "n_seeds": row.n_seeds,
        "train_seconds": row.train_seconds,
        "samples_seen": row.samples_seen,
        **row.further,
    }
    known = {name: value for name, value in metrics.items() if not math.isnan(value)}
    forgotten = dict.fromkeys(run.metric_names - known.keys(), math.nan)
    run.finish("FINISHED", known | forgotten, {"setting": row.setting})
