"""Tables and figures from stored records; nothing here trains."""

from hpo.report.outcome import Extra, ExtraReport, Outcome

__all__ = ["Extra", "ExtraReport", "Outcome"]
