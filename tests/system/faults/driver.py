"""A study as its driver runs it, in a process to be killed; test_faults.py starts it.

python driver.py OUTPUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.system.faults.bench import patched

with pytest.MonkeyPatch.context() as patch:
    sys.exit(patched(patch).study(Path(sys.argv[1])))
