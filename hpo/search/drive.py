"""The loop that every search goes through: ask, report, end."""

from __future__ import annotations

from collections.abc import Callable

from hpo.cells.cell import Cell
from hpo.cells.record import CellRecord, Status
from hpo.cells.result import Result
from hpo.search.protocol import Search

Ending = tuple[Status, Result]
"""How a training ended, and its result."""


def run_through(
    search: Search,
    ended: Callable[[Cell], Ending | None],
    after: Callable[[Cell], None] | None = None,
) -> Cell | None:
    """Hands the cells of a search out, one after another, until the search is done.

    Args:
        search: what hands them out.
        ended: trains a cell or knows what became of it, reports its epochs to the search, and says
            how it ended; None leaves the cell running.
        after: called with each cell once the search knows how it ended.

    Returns:
        The cell that is left running, or None where the search is done or waits for others.
    """
    while not (search.done or search.running):
        cell = search.next()
        ending = ended(cell)
        if ending is None:
            return cell
        search.end(*ending, cell)
        if after is not None:
            after(cell)
    return None


def replay(search: Search, recorded: Callable[[Cell], CellRecord | None]) -> Cell | None:
    """Takes a search through the cells that have a record, as it went when they were trained.

    Args:
        search: what hands them out.
        recorded: finds the record of a cell, or None.

    Returns:
        The first cell without a record, which now runs, or None where the search is done or waits
        for others.
    """

    def ended(cell: Cell) -> Ending | None:
        record = recorded(cell)
        if record is None:
            return None
        search.report(record.result.history, cell)
        return record.status, record.result

    return run_through(search, ended)
