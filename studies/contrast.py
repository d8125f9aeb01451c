"""Does learning λ pay for its cost? Anytime curves of strategies under one and the same budget.

The paper has no such figure. The question of a user who has so much to spend: train once with a
learned λ, or search the α of Beta(α, α)? For each strategy the test error of the incumbent (the
finished training with the lowest meta-validation error so far; the test images select nothing)
against what all its trainings have cost so far.

    metamixup          one training with a learned λ; then the curve is flat: nothing is left to do
    scores             one training with a score for each sample (`core.PersistentScores`)
    random-alpha       random α, every training to its end
    random-alpha-asha  the same, those that are behind stopped by successive halving (ASHA)
    tpe-alpha          α suggested by TPE
    tpe-alpha-asha     the same with ASHA
    fixed-grid         λ = 0.1, 0.2, ... 0.5, in this order
    pbt-alpha          population based training on α (`hpo/search/population_training.py`); its
    curve has the best
                       member after each segment, as it stands in the middle of its training
    tpe-joint          TPE and ASHA over α, learning rate and weight decay together
    metamixup-outer    MetaMixUp inside the same search: learning rate, weight decay, step size of λ
    scores-outer       the scores inside the same search
    learned-beta       one training with α learned late (`core.LearnedBeta`), of cost 1.2;
    learned-beta-outer its α at the start and its reach inside the same search
    pbt-alpha-stop     the population, in which a quarter of the copies stop mixing. These three in
                       the preset contest, or asked for by --rows

All trainings of a seed share their split, initial weights, and order of data. The budget of each
strategy and seed is counted in plain trainings, by expectation (a learned policy that acts at every
step is 4.5), never in measured seconds: the same command comes to the same decisions on any
machine, with any number of workers, and after a kill. No training starts once it is spent; one
that ends beyond it is left out of the curve. `metamixup` and `scores` need a budget of 4.5 at
least.

Cost on two CPU cores, three seeds, each about 110 plain trainings: on digits a few minutes, on
Fashion-MNIST about half an hour (at `--epochs 15` about twenty minutes); the paper preset is for
GPUs. A population holds the weights of all its members in memory: a dozen at the default budget.

    python studies/contrast.py --dataset digits --preset quick --seeds 3
    python studies/contrast.py --dataset fashion_mnist --seeds 3
    python studies/contrast.py --dataset fashion_mnist --label-noise 0.4 --budget 20
    ray submit CLUSTER.yaml studies/contrast.py -- --dataset cifar10 --output /shared/contrast
    ray job submit --working-dir . -- python studies/contrast.py --output /shared/contrast

It leaves `contrast.csv` (every curve, cumulative cost in units, seconds and samples), `contrast.md`
(where strategies stand after 25, 50 and 100 % of the budget, paired comparisons with `metamixup`
and `tpe-alpha-asha`), `contrast-budgets.csv` (each policy trained once minus each search, at every
budget at which an incumbent changes) and `contrast.png`.
"""

from __future__ import annotations

import sys
from functools import partial

from core.policies import (
    Beta,
    Fixed,
    LearnedBetaConfig,
    LearnedConfig,
    PolicyConfig,
    ScoresConfig,
)
from hpo.run import run_study
from hpo.search.spaces import (
    ALPHA_REACH,
    BETA_ALPHA,
    LEARNED_STEP,
    OPTIMISATION,
    SCORES_STEP,
    Space,
)
from hpo.search.strategies import Evolved, Listed, Sampled, Strategy
from hpo.study.named_rows import row
from hpo.study.rows import Family, StudyRow

_BETA = Beta(alpha=1.0)
_alpha = partial(Sampled, _BETA, BETA_ALPHA)
_GRID = tuple(Fixed(lam=lam) for lam in (0.1, 0.2, 0.3, 0.4, 0.5))


def rows() -> list[StudyRow]:
    """Returns the strategies; another learned policy is one line more."""
    return [
        *_learned("metamixup", "MetaMixUp", LearnedConfig(), LEARNED_STEP),
        *_learned("scores", "Scores", ScoresConfig(), SCORES_STEP),
        _row("random-alpha", "random α", "beta", _alpha(sampler="random", halving=False)),
        _row("random-alpha-asha", "random α, ASHA", "beta", _alpha(sampler="random")),
        _row("tpe-alpha", "TPE of α", "beta", _alpha(halving=False)),
        _row("tpe-alpha-asha", "TPE of α, ASHA", "beta", _alpha()),
        _row(
            "tpe-joint",
            "TPE of α, lr, weight decay",
            "beta",
            Sampled(_BETA, {**BETA_ALPHA, **OPTIMISATION}),
        ),
        _row("pbt-alpha", "population, α", "beta", Evolved()),
        _row("fixed-grid", "grid of fixed λ", "fixed", Listed(_GRID)),
    ]


def _learned(key: str, label: str, policy: PolicyConfig, steps: Space) -> list[StudyRow]:
    """Returns a learned policy trained once, and inside a search of the optimizer and its steps."""
    searched = Sampled(policy, {**OPTIMISATION, **steps})
    return [
        _row(key, f"{label}, once", "learned", Listed((policy,))),
        _row(f"{key}-outer", f"{label}, lr and steps searched", "learned", searched),
    ]


def _row(key: str, label: str, family: Family, strategy: Strategy) -> StudyRow:
    return row(key, label, key, family, strategy)


CONTENDERS = (
    *_learned("learned-beta", "α learned late", LearnedBetaConfig(), {**BETA_ALPHA, **ALPHA_REACH}),
    _row("pbt-alpha-stop", "population, α and stop", "beta", Evolved(rest=0.25)),
)

main = partial(run_study, "contrast", rows(), __doc__, contenders=CONTENDERS)

if __name__ == "__main__":
    sys.exit(main())
