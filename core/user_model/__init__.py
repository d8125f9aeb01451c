"""This package looks inside a user's module, and what training loops wrap around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazily

if TYPE_CHECKING:
    from core.user_model.blocks import last_blocks
    from core.user_model.held_statistics import statistics_held
    from core.user_model.logits import LogitsOf, WithLogits, with_logits
    from core.user_model.ranks import ALONE, Ranks
    from core.user_model.wrapped_models import eager_if_hooked, ranks_of, unwrap

__all__ = [
    "ALONE",
    "LogitsOf",
    "Ranks",
    "WithLogits",
    "eager_if_hooked",
    "last_blocks",
    "ranks_of",
    "statistics_held",
    "unwrap",
    "with_logits",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__)
