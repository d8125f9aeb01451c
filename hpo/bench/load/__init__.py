"""Many tiny trainings show what a study takes beside them, and whether it loses any."""

# Empty, since the studies of a load run a module of this package as their main program.
__all__: list[str] = []
