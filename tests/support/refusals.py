"""What is refused, and how the refusal reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def refused_in_a_line(message: str, *names: str) -> Iterator[None]:
    """Expects a ValueError of a block: one line, which matches `message` and has these names."""
    with pytest.raises(ValueError, match=message) as caught:
        yield
    assert "\n" not in str(caught.value)
    for name in names:
        assert name in str(caught.value)
