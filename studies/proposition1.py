"""Proposition 1: is MixUp's loss a lower bound of the gradient's Lipschitz constant, and does it
bind?

The paper (section III-A): if the gradient of f is κ-Lipschitz, then for all x, x′ and λ in [0, 1]

    |f(λx + (1−λ)x′) − [λf(x) + (1−λ)f(x′)]| ≤ λ(1−λ)·κ/2·‖x − x′‖²        (P2)

and from it: "controlling the Lipschitz constant of the gradient necessarily requires minimizing
MixUp loss", and "minimizing MixUp loss helps controlling the Lipschitz constant".

The inequality is right (so no pair of images may violate it) and sharp. What it assumes and does
not say stands in `core.analysis.proposition1`, each point with a test: it needs a gradient without
jumps, which no ReLU network has; it bounds κ from below, so that a small left side does not make κ
small; and MixUp's loss is not its left side unless f fits the labels. What is left to experiment:
how near to κ the ratio comes, and what training with each policy does to κ.

Rows: no mixing, MixUp, MetaMixUp in the paper's and in the default reading, the placebo of the
latter. Networks are those of the presets with GELU for ReLU and average for max-pooling
(`cnn_smooth`, `digits_cnn_smooth`; for data whose preset is a residual network `cnn_smooth` too),
and f is the logit, then the probability, of the label of x. Each training is looked at after epochs
1, 2, 5, 10, 20, 50, ... and the last: 32 pairs of training images, κ by power iteration on
Hessian-vector products with respect to the image at five points of each segment. A true κ may be
larger than what these points show, which makes (P2) hold all the more.

The paper has no numbers to compare with.

    python studies/proposition1.py                                    (digits, three seeds)
    python studies/proposition1.py --dataset fashion_mnist --seeds 3
    ray submit CLUSTER.yaml studies/proposition1.py -- --dataset mnist --output /shared/p1

Beside the files of every study it leaves `proposition1-looks.csv` (every look),
`proposition1-curvature.csv` (what the networks ended with), `proposition1-changes.csv` (MixUp's
loss and κ in the last look over the first) and `proposition1-curvature.png`; the text ends with
what the numbers let one conclude. The curves are metrics of each cell's run in MLflow
(`logit_kappa`, `probability_ratio`, ...).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

from core.analysis.config import AnalysisConfig
from core.training.config import TrainingConfig
from hpo.analyses.proposition1.report import proposition1_report
from hpo.run import run_study
from hpo.study.named_rows import METAMIXUP, METAMIXUP_PAPER, MIXUP, NONE
from hpo.study.rows import StudyRow, controls

PAIRS = 32
SMOOTH = {"digits_cnn": "digits_cnn_smooth"}
"""The smooth counterpart of a preset's network; of all others it is cnn_smooth."""


def rows() -> list[StudyRow]:
    """Returns no mixing, MixUp, the two readings, the placebo."""
    placebo, _ = controls(METAMIXUP, plain=True)
    return [NONE, MIXUP, METAMIXUP_PAPER, METAMIXUP, placebo]


def looked_at(training: TrainingConfig) -> TrainingConfig:
    """Returns a preset's training with a smooth network, looked at."""
    model = training.model
    if not model.endswith("_smooth"):
        model = SMOOTH.get(model, "cnn_smooth")
    return replace(training, model=model, analysis=AnalysisConfig(curvature_pairs=PAIRS))


main = partial(
    run_study, "proposition1", rows(), __doc__, extras=[proposition1_report], adapted=looked_at
)

if __name__ == "__main__":
    sys.exit(main())
