"""One training and what became of it, as plain data."""

from hpo.cells.cell import Cell
from hpo.cells.gpu_use import GpuUse
from hpo.cells.population import Population
from hpo.cells.record import CellRecord, Status
from hpo.cells.store import CellStore, StoreError
from hpo.cells.summary import SummaryRow

__all__ = [
    "Cell",
    "CellRecord",
    "CellStore",
    "GpuUse",
    "Population",
    "Status",
    "StoreError",
    "SummaryRow",
]
