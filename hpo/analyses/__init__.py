"""What one study says beside its table; none of these folders imports another."""

__all__: list[str] = []
