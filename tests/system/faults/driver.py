"""A study as its driver runs it, in a process to be killed; test_faults.py starts it.

python driver.py OUTPUT
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

path = Path(__file__).with_name("conftest.py")
spec = importlib.util.spec_from_file_location("faults_conftest", path)
assert spec is not None
assert spec.loader is not None
conftest = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = conftest
spec.loader.exec_module(conftest)

with pytest.MonkeyPatch.context() as patch:
    sys.exit(conftest.patched(patch).study(Path(sys.argv[1])))
