"""A whole study: from its command line, or from Python."""

from hpo.command_line.statuses import CRASHED, INTERRUPTED, UNUSABLE
from hpo.run.study import run_study

__all__ = ["CRASHED", "INTERRUPTED", "UNUSABLE", "run_study"]
