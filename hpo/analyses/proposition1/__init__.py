"""This package reports Proposition 1: what κ is, how near (P2) comes to it, what training does."""

from hpo.analyses.proposition1.report import proposition1_report

__all__ = ["proposition1_report"]
