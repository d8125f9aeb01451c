"""What `metamixup` does beside running a study, one file a command."""

__all__: list[str] = []
