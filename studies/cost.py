"""What learning λ costs: every engine, cheaper modes and other libraries against plain MixUp.

The unit is one training step of plain MixUp (vanilla). Every other row is a whole training step
too: the hypergradient, the update of λ, the batch mixed anew, and the same real step. Rows are
Algorithm 1 through each engine of `core` and through "auto", cheaper modes, and the peers `higher`,
TorchOpt, Betty and learn2learn, each used as its own documentation shows. A peer that does not
install or run is reported with the reason: `pip install 'metamixup-hpo[peers]'` brings those that
this Python can have.

How to read the table:

    time       median over plain MixUp's; all rows of a table take turns in one process, in an
               order shuffled each round; quartiles are of the ratios by round
    FLOPs      products of matrices and convolutions, over plain MixUp's
    of floor   what the exact method needs at the least, (10 + 3·m/n)/3 units, over the time ratio
    memory     peak of one step above the resting state; on the CPU in a process of its own
    error      of the hypergradient against the unroll in float64, relative, on a network trained
    cosine     for 100 steps on real images

Measured on two CPU cores with torch 2.13.0 (docs/step-cost.md): on PreActResNet-18, n = m = 64,
auto 4.5 units (4.33 by FLOPs), unroll 5.7, higher 5.7, TorchOpt 5.6, Betty 5.8; on the
CNN, n = 128, m = 100, auto, unroll, higher and TorchOpt all have quartiles within 4.1 to 4.9 (4.12
by FLOPs). quick takes about ten minutes, with every contender named (`--contenders`) twenty.

Whole epochs follow: `core.training.fit` by precision and memory format, plain and with λ learned,
beside a loop of thirty lines that trains the same network by plain MixUp (docs/step-cost.md), and
beside the code of an earlier commit that `--before` names.

Compare times within one table only: the next one may have met a busier machine.

    python studies/cost.py                                       (quick: the table, two CPU cores)
    python studies/cost.py --preset paper                        (and growth with batch and depth)
    python studies/cost.py --preset paper --device cuda          (bf16, channels_last; WRN-28-10)
    python studies/cost.py --models cnn --contenders auto,higher --repeats 21
    python studies/cost.py --contenders fit --repeats 15                      (whole epochs too)
    git worktree add ../before COMMIT; python studies/cost.py --contenders fit --before ../before

Run again, a command goes on where it was; a model and size that is measured is not measured again
unless a contender, a peer's version or a setting is another. --fresh measures all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hpo.bench.cost.command_line import flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the study; returns the exit status."""
    flags(__doc__).parse_args(arguments)  # a flag that there is not is told at once
    from hpo.bench.cost.run import run_cost  # torch

    return run_cost(__doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
