"""Many tiny trainings show what a study takes beside them, and whether it loses any."""

__all__: list[str] = []
