"""Files that survive a kill, in a folder or a bucket; nothing here knows a cell or a study."""

from hpo.storage.atomic import in_place_of, sweep, write_atomically, write_bytes_atomically
from hpo.storage.folder import FolderStorage
from hpo.storage.places import checked, storage_at, storage_of
from hpo.storage.protocol import Keep, Storage

__all__ = [
    "FolderStorage",
    "Keep",
    "Storage",
    "checked",
    "in_place_of",
    "storage_at",
    "storage_of",
    "sweep",
    "write_atomically",
    "write_bytes_atomically",
]
