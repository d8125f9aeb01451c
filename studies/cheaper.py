"""What a cheaper meta stage costs in error: the exact hypergradient beside its approximations.

The paper has no such table. Rows: no MixUp; MixUp; MetaMixUp with the exact hypergradient at every
step; through the last two blocks of the network alone; with a validation gradient refreshed every
fourth step; with a meta stage at every 16th step, λ predicted between from what was learned for
the pair of classes (exactly, and through the last two blocks); and the placebo of the exact row.
The cost column is training time relative to the first row; `studies/cost.py` measures single steps
and how far each approximation's hypergradient is from the exact one.

    python studies/cheaper.py --dataset fashion_mnist --preset quick --seeds 5

Run again, a command goes on where it was; finished cells are never trained twice.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from core.config import PolicyConfig
from hpo.plan import StudyRow
from hpo.report import Family, Row
from hpo.run import run_study

LAST_BLOCKS, REFRESH_EVERY, EVERY = 2, 4, 16


def rows() -> list[StudyRow]:
    """The rows of the table."""
    last = f"last {LAST_BLOCKS} blocks"
    often = f"every {EVERY} steps"
    return [
        _row("none", "No MixUp", "none", "none", PolicyConfig("none")),
        _row("beta-1", "MixUp (α = 1)", "alpha=1", "beta", PolicyConfig("beta", alpha=1.0)),
        _row("metamixup", "MetaMixUp (exact)", "exact", "learned", PolicyConfig("learned")),
        _row(
            "metamixup-last",
            f"MetaMixUp ({last})",
            last,
            "learned",
            PolicyConfig("learned", last_blocks=LAST_BLOCKS),
        ),
        _row(
            "metamixup-refresh",
            f"MetaMixUp (v every {REFRESH_EVERY} steps)",
            f"validation gradient every {REFRESH_EVERY} steps",
            "learned",
            PolicyConfig("learned", refresh_every=REFRESH_EVERY),
        ),
        _row(
            "metamixup-amortised",
            f"MetaMixUp ({often})",
            often,
            "learned",
            PolicyConfig("learned", every=EVERY),
        ),
        _row(
            "metamixup-amortised-last",
            f"MetaMixUp ({often}, {last})",
            f"{often}, {last}",
            "learned",
            PolicyConfig("learned", every=EVERY, last_blocks=LAST_BLOCKS),
        ),
        _row("placebo", "Placebo", "hypergradients permuted", "placebo", PolicyConfig("placebo")),
    ]


def _row(key: str, label: str, setting: str, family: Family, policy: PolicyConfig) -> StudyRow:
    return StudyRow(Row(key, label, setting, family, {}), policy)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    return run_study("cheaper", rows(), __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
