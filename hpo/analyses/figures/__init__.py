"""The figures of the paper, each drawn from the stored cells of its study."""

__all__: list[str] = []
