"""One whole training: its configuration, its data, its loop, its result."""
