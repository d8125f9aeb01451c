"""What one study says beside its table; none of these folders imports another."""
