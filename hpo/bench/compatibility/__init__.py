"""What people bring to `core`, a layer, loss, optimizer and network each, and what comes of it."""

__all__: list[str] = []
