"""How a study tells whoever started it what became of it."""

CRASHED, UNUSABLE, INTERRUPTED = 1, 2, 130
"""Exit statuses: some cell's worker or a part of the report failed; the study could not run; it was
interrupted."""
