"""This package finds wrong labels: which to look at first, and how many of these are wrong."""

from hpo.analyses.labels.comparison import Method, label_comparison, require_cleanlab
from hpo.analyses.labels.errors import label_errors

__all__ = ["Method", "label_comparison", "label_errors", "require_cleanlab"]
