"""Does it pay to learn how much to mix, and when to stop, instead of searching or setting it?

The paper has no such table. Over a whole training more mixing wins; at its end, less. Rows: no
MixUp; MixUp with α = 1, the same with the last 17 % of the epochs unmixed (set by hand, for
nothing), and with α found by search; α learned late in one training (`core.LearnedBeta`), with its
controls: the placebo (the sign of each derivative drawn at random) and the frozen row (λ drawn as
the learned row had it); the draws of the learned row with nothing learned; α learned from the first
step on, which the short horizon fools; MetaMixUp, which learns every λ.

In the preset contest, or asked for (`--rows learned-beta,learned-beta-brier`), MixUp at other
constant α, which may be the best, and the learned row otherwise: the λ of a batch spread over their
distribution instead of drawn one by one; the validation batch judged by what does not punish low
confidence, the Brier score or cross-entropy at a fitted temperature; a derivative carried over
about a hundred steps (`core.policies.CarriedBeta`); a later and an earlier beginning; one λ for a
batch, and moves twice as far; both ends of a schedule of α, or α and the time to stop, learned by
evolution (`core.policies.EvolvedBeta`); the reach of α found by the search that finds α.

The primary comparisons are α learned late against the best constant α, no mixing among them, and
against α = 1 whose mixing stops early. The question has an answer only where MixUp itself pays, as
in the preset contest:

    python studies/learned_alpha.py --dataset digits --preset quick --seeds 3
    python studies/learned_alpha.py --dataset fashion_mnist --preset contest --seeds 10

Cost of a seed in plain trainings: 1 of rows that learn nothing, about 1.2 of α learned late, 1.4 of
α learned throughout, 2 of a derivative carried, 3 of evolution, 4.5 of MetaMixUp; and the search
once.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from core.policies import LearnedBetaConfig
from hpo.analyses.anytime import constants_tried
from hpo.analyses.figures.learned_alpha import learned_alpha
from hpo.run import run_study
from hpo.search.spaces import ALPHA_REACH
from hpo.study.comparisons import BEST_BETA, Comparisons
from hpo.study.named_rows import METAMIXUP, MIXUP, NONE, SEARCHED, beta, row
from hpo.study.rows import Family, StudyRow, controls
from hpo.study.variants import stopped
from studies.rows import LEARNED_BETA, renamed, searched


def _variant(name: str, label: str, family: Family = "learned", **settings: Any) -> StudyRow:
    text = ", ".join(f"{key}={value}" for key, value in settings.items())
    policy = LearnedBetaConfig(**settings)
    return row(f"{LEARNED_BETA.row.key}-{name}", label, f"alpha learned, {text}", family, policy)


def rows() -> list[StudyRow]:
    """Returns the rows of the table."""
    return [
        NONE,
        MIXUP,
        stopped(MIXUP),
        SEARCHED,
        LEARNED_BETA,
        *controls(LEARNED_BETA),
        _variant("never", "α = 1, as drawn there", "extra", begin=1.0),
        _variant("first", "α learned from the first step", begin=0.0),
        renamed(METAMIXUP, label="MetaMixUp"),
    ]


CONTENDERS = (
    *map(beta, (0.2, 0.5, 2.0)),
    stopped(beta(0.5)),
    _variant("batch", "α learned, one λ a batch", per_sample=False, reach=12.0),
    _variant("stratified", "α learned late, λ stratified", stratified=True),
    _variant("brier", "α learned by the Brier score", objective="brier"),
    _variant("tempered", "α learned at a fitted temperature", objective="tempered"),
    _variant("carried", "α learned over many steps", carry=0.99),
    _variant("0.4", "α learned from 0.4 on", begin=0.4),
    _variant("0.75", "α learned from 0.75 on", begin=0.75),
    _variant("evolved", "ends of α by evolution", begin=0.0, every=100, sigma=0.3),
    _variant(
        "evolved-stop",
        "α and its stop by evolution",
        begin=0.0,
        every=100,
        sigma=0.3,
        path="stop",
    ),
    searched(LEARNED_BETA, ALPHA_REACH),
)

COMPARISONS = Comparisons(
    primary=(
        (LEARNED_BETA.row.key, BEST_BETA),
        (LEARNED_BETA.row.key, stopped(MIXUP).row.key),
    )
)

main = partial(
    run_study,
    "learned_alpha",
    rows(),
    __doc__,
    extras=[learned_alpha, constants_tried],
    contenders=CONTENDERS,
    comparisons=COMPARISONS,
)

if __name__ == "__main__":
    sys.exit(main())
