"""Proposition 1 of the paper, held against what was trained."""
