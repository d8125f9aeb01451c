"""Many tiny trainings: what a study takes beside them, and whether it loses any."""
