"""What people bring to `core`, a layer, loss, optimizer and network each, and what comes of it."""

__all__ = ["KINDS"]

KINDS = ("network", "layer", "loss", "optimizer")
"""The kinds of things that people bring."""
