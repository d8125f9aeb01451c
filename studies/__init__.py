"""Each file is a study: a table or figure of the paper, or a question of our own."""

__all__: list[str] = []
