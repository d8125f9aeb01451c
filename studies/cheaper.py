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
"""

from __future__ import annotations

import sys
from functools import partial

from core.policies import LearnedConfig
from hpo.run import run_study
from hpo.study.named_rows import MIXUP, NONE, SEARCHED, row
from hpo.study.rows import StudyRow, controls

LAST_BLOCKS, REFRESH_EVERY, EVERY = 2, 4, 16


def rows() -> list[StudyRow]:
    """Returns the rows of the table."""
    last = f"last {LAST_BLOCKS} blocks"
    often = f"every {EVERY} steps"
    exact = _learned("", "exact", LearnedConfig())
    amortised = _learned("-amortised", often, LearnedConfig(every=EVERY))
    return [
        NONE,
        MIXUP,
        SEARCHED,
        exact,
        _learned("-last", last, LearnedConfig(last_blocks=LAST_BLOCKS)),
        row(
            "metamixup-refresh",
            f"MetaMixUp (v every {REFRESH_EVERY} steps)",
            f"validation gradient every {REFRESH_EVERY} steps",
            "learned",
            LearnedConfig(refresh_every=REFRESH_EVERY),
        ),
        amortised,
        _learned(
            "-amortised-last",
            f"{often}, {last}",
            LearnedConfig(every=EVERY, last_blocks=LAST_BLOCKS),
        ),
        *controls(exact, plain=True),
        *controls(amortised),
    ]


def _learned(suffix: str, setting: str, policy: LearnedConfig) -> StudyRow:
    return row(f"metamixup{suffix}", f"MetaMixUp ({setting})", setting, "learned", policy)


main = partial(run_study, "cheaper", rows(), __doc__)

if __name__ == "__main__":
    sys.exit(main())
