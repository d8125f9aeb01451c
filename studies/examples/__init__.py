"""`core`'s step in pipelines that know nothing of `hpo`; each file is a program to copy from."""

__all__: list[str] = []
