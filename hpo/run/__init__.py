"""A whole study: from its command line, or from Python."""

from hpo.run.study import CRASHED, INTERRUPTED, UNUSABLE, Ended, prepare, run_rows, run_study

__all__ = ["CRASHED", "INTERRUPTED", "UNUSABLE", "Ended", "prepare", "run_rows", "run_study"]
