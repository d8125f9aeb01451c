"""Figure 7: λ that MetaMixUp learns for pairs of classes, over training.

The paper shows three-dimensional bars of λ by the classes of both samples, ResNet-50 on CIFAR-10,
at the epochs 3, 30, 90 and 120: λ goes "from a random form to a data specific distribution" and
converges. Bars hide each other, so here are heat maps of mean λ; in a training of fewer than 120
epochs the four are scaled to it, and of a longer one the last is added.

A map of finitely many samples is never flat. Two things tell what a map shows from chance: the
placebo, whose λ move as much but by the hypergradients of other samples, has nothing to do with
classes; and a policy that is specific to the data is so for every seed, so the picture and the text
have what the maps of different seeds have in common (`hpo.analyses.figures.agreement`).

Rows: both readings, and the placebo of the default one. The paper preset trains ResNet-50 on color
images. Cost on two CPU cores: quick on digits half a minute, on Fashion-MNIST six.

    python studies/figure7.py --dataset fashion_mnist --preset quick --seeds 3
    ray submit CLUSTER.yaml studies/figure7.py -- --dataset cifar10 --preset paper --device cuda
    ray job submit --working-dir . -- python studies/figure7.py --output /shared/figures

Leaves figure7.png, figure7.csv and figure7.md; the table of errors is figure7-errors.csv. Run
again, a command goes on where it was; finished cells are never trained twice.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

from core.analysis.config import AnalysisConfig
from core.training.config import TrainingConfig
from hpo.analyses.figures.class_pair_maps import class_pair_maps
from hpo.run import run_study
from hpo.study.named_rows import METAMIXUP, METAMIXUP_PAPER
from hpo.study.rows import StudyRow, controls

EPOCHS = (3, 30, 90, 120)


def rows() -> list[StudyRow]:
    """Returns the default reading and its placebo, the paper's reading."""
    placebo, _ = controls(METAMIXUP, plain=True)
    return [METAMIXUP, placebo, METAMIXUP_PAPER]


def adapted(training: TrainingConfig) -> TrainingConfig:
    """Returns the preset's training, looked at; for color images with the paper's ResNet-50."""
    whole = training.model == "preact_resnet18" and training.width is None
    model = "resnet50" if whole else training.model
    return replace(training, model=model, analysis=AnalysisConfig(pair_epochs=EPOCHS))


main = partial(run_study, "figure7", rows(), __doc__, figure=class_pair_maps, adapted=adapted)

if __name__ == "__main__":
    sys.exit(main())
