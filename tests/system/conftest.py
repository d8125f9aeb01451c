from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.stores import copied_stores

__all__ = ["copied_stores"]

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("system")
