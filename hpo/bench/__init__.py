"""What the project measures of itself; nothing stands on it."""

__all__: list[str] = []
