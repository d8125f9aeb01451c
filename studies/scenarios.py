"""Does learning λ pay where the training images are worse than the validation images?

The paper has no such table. Rows: no MixUp; MixUp with α = 0.2, α = 1 and α found by search;
MixUp with a score for each training image learned by hypergradient (`core.PersistentScores`), with
its controls: the placebo (each image is mixed by the learned score of another one) and the frozen
row (λ drawn from the distribution that learning had at that time); the same with a meta stage at
every fourth step; MetaMixUp in the default reading, with its controls. Two rows train on the
meta-validation images too, for as many steps, which a doubting reader would do with them first: the
scores, learned from images that train as well, and (quick preset) MixUp with the searched α.

In the preset contest, or asked for (`--rows none,scores,l2rw,meta-weight-net`), the rivals that
learn weights of samples from the same images by the same hypergradient: Learning to Reweight
(`core.LearningToReweight`) and Meta-Weight-Net (`core.MetaWeightNet`), with their placebos.

The primary comparison is the scores against the best constant Beta, no mixing among them.

`--imbalance 50` cuts the training images to a long tail, `--label-noise 0.4` makes labels wrong;
meta-validation and test images stay balanced and clean. Without either the study says what learning
is worth on clean balanced data.

    python studies/scenarios.py --dataset fashion_mnist --label-noise 0.4 --lr 0.03 --epochs 30 \\
        --seeds 10
    python studies/scenarios.py --dataset fashion_mnist --dataset folder:IMAGES \\
        --imbalance 50 --train-size 8000 --lr 0.03 --seeds 10

Cost on two CPU cores, loaded, without the rows of MetaMixUp (about half as much again): the first
40 minutes, the second 26. What came of them is in docs/results.md and in `core.PersistentScores`.
"""

from __future__ import annotations

import sys
from functools import partial

from core.policies import ScoresConfig
from hpo.run import run_study
from hpo.study.comparisons import BEST_BETA, Comparisons
from hpo.study.named_rows import METAMIXUP, MIXUP, NONE, SEARCHED, beta, row
from hpo.study.rows import StudyRow, controls
from hpo.study.variants import with_meta_images
from studies.rows import L2RW, META_WEIGHT_NET, SCORES, renamed

EVERY = 4


def rows() -> list[StudyRow]:
    """Returns the rows of the table."""
    cheap = row(
        f"scores-{EVERY}",
        f"Scores (every {EVERY} steps)",
        f"a score a sample, every {EVERY} steps",
        "learned",
        ScoresConfig(every=EVERY),
    )
    learned = renamed(METAMIXUP, label="MetaMixUp")
    return [
        NONE,
        beta(0.2),
        MIXUP,
        SEARCHED,
        SCORES,
        *controls(SCORES),
        cheap,
        learned,
        *controls(learned),
        with_meta_images(cheap),
    ]


CONTENDERS = (L2RW, *controls(L2RW), META_WEIGHT_NET, *controls(META_WEIGHT_NET))
"""Rivals that learn weights of samples from the same images by the same hypergradient."""

COMPARISONS = Comparisons(primary=(("scores", BEST_BETA),))

main = partial(
    run_study,
    "scenarios",
    rows(),
    __doc__,
    contenders=CONTENDERS,
    comparisons=COMPARISONS,
)

if __name__ == "__main__":
    sys.exit(main())
