"""Training code of other kinds, compared over seeds by `hpo.compare`; programs to copy from."""

__all__: list[str] = []
