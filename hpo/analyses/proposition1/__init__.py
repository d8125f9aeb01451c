"""Proposition 1 over policies: what κ is, how near (P2) comes to it, what training does to both."""

from hpo.analyses.proposition1.report import proposition1_report

__all__ = ["proposition1_report"]
