"""Readings of MetaMixUp compared."""

from hpo.analyses.readings.report import readings_report

__all__ = ["readings_report"]
