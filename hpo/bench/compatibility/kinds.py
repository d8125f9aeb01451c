"""The kinds of things that people bring."""

from __future__ import annotations

KINDS = ("network", "layer", "loss", "optimizer")
