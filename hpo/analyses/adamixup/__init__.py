"""This package says what AdaMixUp does over training."""

from hpo.analyses.adamixup.report import adamixup_report

__all__ = ["adamixup_report"]
