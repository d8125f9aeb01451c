"""One training and what became of it, as plain data."""
