"""What a stranger may have put into a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Hostile:
    """An object that makes a folder where it is unpickled."""

    def __init__(self, mark: Path):
        self._mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._mark),)
