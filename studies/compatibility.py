"""What works with learned λ: networks, layers, losses and optimizers, under every engine.

Each entry is held against central differences of plain training, or is refused by a message. The
page is docs/compatibility.md, its table docs/evidence/compatibility.csv. Layers, losses and
optimizers take a minute on two cores, the networks of torchvision five. Nothing is downloaded.

    python studies/compatibility.py                      (all of it)
    python studies/compatibility.py --kinds loss,layer   (the rest is taken from the table)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hpo.bench.compatibility import KINDS
from hpo.command_line.flags import command, program
from hpo.command_line.statuses import INTERRUPTED, UNUSABLE


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the study; returns the exit status, 1 where an entry is wrong."""
    parser = command(program("compatibility"), __doc__)
    every = ",".join(KINDS)
    parser.add_argument("--kinds", default=every, help=f"of {every}: what is tried anew")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the page")
    options = parser.parse_args(arguments)
    kinds = options.kinds.split(",")
    if unknown := sorted(set(kinds) - set(KINDS)):
        parser.error(f"--kinds must be of {every}, got {', '.join(unknown)}")
    try:
        from hpo.bench.compatibility.page import write_page  # torch

        return write_page(kinds, options.docs)
    except OSError as error:
        print(f"compatibility: error: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print("compatibility: interrupted; the kinds that were done are kept", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
