"""What a cheaper meta stage costs in error: the exact hypergradient beside its approximations.

The paper has no such table. Rows: no MixUp; MixUp; MixUp with α found by search; MetaMixUp with the
exact hypergradient at every step; through the last two blocks of the network alone; with a
validation gradient refreshed every fourth step; with a meta stage at every 16th step, λ predicted
between from what was learned for the pair of classes (exactly, and through the last two blocks);
and the controls, placebo and frozen λ, of the exact row and of the better of the two that act at
every 16th step.
The cost column is training time relative to the first row; `studies/cost.py` measures single steps
and how far each approximation's hypergradient is from the exact one.

    python studies/cheaper.py --dataset fashion_mnist --preset quick --seeds 5

Run again, a command goes on where it was; finished cells are never trained twice.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from core.policies import Beta, LearnedConfig, NoMix
from hpo.run import run_study
from hpo.study.rows import Family, Recipe, Row, StudyRow, controls
from studies.rows import SEARCHED

LAST_BLOCKS, REFRESH_EVERY, EVERY = 2, 4, 16


def rows() -> list[StudyRow]:
    """The rows of the table."""
    last = f"last {LAST_BLOCKS} blocks"
    often = f"every {EVERY} steps"
    exact = _row("metamixup", "MetaMixUp (exact)", "exact", "learned", LearnedConfig())
    amortised = _row(
        "metamixup-amortised",
        f"MetaMixUp ({often})",
        often,
        "learned",
        LearnedConfig(every=EVERY),
    )
    return [
        _row("none", "No MixUp", "none", "none", NoMix()),
        _row("beta-1", "MixUp (α = 1)", "alpha=1", "beta", Beta(alpha=1.0)),
        SEARCHED,
        exact,
        _row(
            "metamixup-last",
            f"MetaMixUp ({last})",
            last,
            "learned",
            LearnedConfig(last_blocks=LAST_BLOCKS),
        ),
        _row(
            "metamixup-refresh",
            f"MetaMixUp (v every {REFRESH_EVERY} steps)",
            f"validation gradient every {REFRESH_EVERY} steps",
            "learned",
            LearnedConfig(refresh_every=REFRESH_EVERY),
        ),
        amortised,
        _row(
            "metamixup-amortised-last",
            f"MetaMixUp ({often}, {last})",
            f"{often}, {last}",
            "learned",
            LearnedConfig(every=EVERY, last_blocks=LAST_BLOCKS),
        ),
        *controls(exact, plain=True),
        *controls(amortised),
    ]


def _row(key: str, label: str, setting: str, family: Family, recipe: Recipe) -> StudyRow:
    return StudyRow(Row(key, label, setting, family, {}), recipe)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    return run_study("cheaper", rows(), __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
