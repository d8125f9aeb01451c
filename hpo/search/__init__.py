"""What to train next: searches over settings, and strategies under a budget.

The modules that search with Optuna are imported by their own names, as workers need none of them.
"""

from hpo.search.budget import Budget
from hpo.search.drive import replay, run_through
from hpo.search.protocol import Search, SearchError, SearchSettings
from hpo.search.spaces import BETA_ALPHA, Float, Int, Space

__all__ = [
    "BETA_ALPHA",
    "Budget",
    "Float",
    "Int",
    "Search",
    "SearchError",
    "SearchSettings",
    "Space",
    "replay",
    "run_through",
]
