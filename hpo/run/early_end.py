"""What a study that ends early tells its user to do next."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class EarlyEnd:
    """An early end goes with a study from its flags on, and knows how the study is gone on with.

    Attributes:
        fresh: all is to be trained again, and what was there has not been set aside yet: without
            --fresh the next run would report it as if it had been.
        kept: what the next run finds done.
    """

    fresh: bool = False
    kept: str = "finished cells"

    def interrupted(self, study: str) -> str:
        """Returns what is said to whoever interrupted it."""
        again = "run the same command again"
        if self.fresh:
            return f"\n{study}: interrupted before its first training; {again}"
        return f"\n{study}: interrupted; {again}, without --fresh, to go on: {self.kept} are kept"

    def way_out(self, error: Exception) -> str:
        """Returns what is to be done about errors of the system, which only say what is wrong."""
        if not isinstance(error, OSError) or error.errno is None:
            return ""
        told = "; mend that or choose another output folder, then run the same command"
        return f"{told} again" if self.fresh else f"{told}, without --fresh: {self.kept} are kept"
