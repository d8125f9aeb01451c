"""AdaMixUp (Guo et al., AAAI 2019): λ from a region that a network chooses for each pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazily

if TYPE_CHECKING:
    from core.policies.adamixup.config import AdaMixUpConfig
    from core.policies.adamixup.policy import AdaMixUp

__all__ = ["AdaMixUp", "AdaMixUpConfig"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__)
