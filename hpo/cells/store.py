"""A cell is one training's full configuration with a stable id; the store holds what cells gave."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from hpo.cells.record import CellRecord, RefusedSettings
from hpo.storage.folder import FolderStorage
from hpo.storage.places import storage_of
from hpo.storage.protocol import Keep, Storage


class StoreError(RuntimeError):
    """A stored result cannot be read or written."""


def cannot_write(place: object, error: OSError, kept: str) -> StoreError:
    """Returns what to raise where the results that came before, which `kept` names, stay."""
    return StoreError(
        f"cannot write {place}: {error.strerror or error}; free space or choose another output "
        f"folder, then run the same command, without --fresh: {kept} are kept"
    )


class CellStore:
    """`cells/<cell id>/result.json` in a storage, one for each cell that came to an end.

    Args:
        place: a folder of this machine, a URI of a storage, or the storage.
    """

    def __init__(self, place: str | Path | Storage):
        self._storage = storage_of(place)

    def place(self, cell_id: str) -> str:
        """Returns where the cell keeps its result and, while it trains, its checkpoints, for a
        person."""
        return f"{self._storage.uri}/{_folder(cell_id)}"

    def directory(self, cell_id: str) -> Path:
        """Returns the same place as a directory, where the storage is a folder."""
        if not isinstance(self._storage, FolderStorage):
            raise StoreError(f"{self.place(cell_id)} is no directory of this machine")
        return self._storage.root / _folder(cell_id)

    def checkpoints(self, cell_id: str) -> AbstractContextManager[tuple[Path, Keep]]:
        """Returns the directory for a training's checkpoints; see `Storage.checkpoints`."""
        return self._storage.checkpoints(_folder(cell_id))

    def remove_checkpoints(self, cell_ids: Iterable[str]) -> None:
        """Deletes the cells' checkpoints."""
        self._storage.remove_checkpoints(map(_folder, cell_ids))

    def save(self, record: CellRecord) -> None:
        """Writes the record so that a kill leaves either nothing or the whole.

        Raises:
            StoreError: the file cannot be written.
        """
        text = json.dumps(record.to_dict(), indent=1, allow_nan=True)
        try:
            self._storage.write(_result(record.cell.id), text.encode())
        except OSError as error:
            place = f"{self.place(record.cell.id)}/result.json"
            raise cannot_write(place, error, "finished cells") from error

    def load(self, cell_id: str) -> CellRecord | None:
        """Returns the record of a cell, or None if it has not come to an end.

        Raises:
            StoreError: the file is there and cannot be read.
        """
        try:
            return CellRecord.from_dict(json.loads(self._storage.read(_result(cell_id))))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot read {self.place(cell_id)}/result.json: {error}") from error
        except RefusedSettings as error:
            raise StoreError(
                f"{self.place(cell_id)}/result.json is of another version, or of code of your own "
                f"({error}); read it with that version, or by a script that imports that code first"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            place = self.place(cell_id)
            raise StoreError(
                f"{place}/result.json is not a readable result ({error}); delete {place} to train "
                "that cell again"
            ) from error

    def records(self) -> list[CellRecord]:
        """Returns all records, sorted by id."""
        names = (name.split("/") for name in self._storage.files("cells"))
        ids = sorted(name[1] for name in names if len(name) == 3 and name[2] == "result.json")
        loaded = map(self.load, ids)
        return [record for record in loaded if record is not None]


def _folder(cell_id: str) -> str:
    """Returns the cell's folder in a storage."""
    return f"cells/{cell_id}"


def _result(cell_id: str) -> str:
    """Returns the cell's record in a storage."""
    return f"{_folder(cell_id)}/result.json"
