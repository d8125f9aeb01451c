"""Figure 2: training loss of MetaMixUp and of MixUp against epochs.

The paper shows ResNet-50 on CIFAR-10 and says that "the training loss of MetaMixUp is substantially
lower than vanilla MixUp" and approaches zero. Both losses are of mixed images, each policy's own:
they are of different data. A policy whose λ are nearer to 0 and 1 mixes less, and the loss cannot
fall below the mean entropy of its mixed labels, so part of a lower loss says nothing about the
network. Three panels therefore: the loss as the paper has it, the same above its least possible
value (label_entropy), and the loss on unmixed training images (up to 1,000 of them, in evaluation
mode, after each epoch).

Rows: MixUp with Beta(1, 1), MetaMixUp in the default reading and in the paper's, and no MixUp.
Lines are means over seeds, bands 95 % intervals. The paper preset trains ResNet-50 on color
images, the others what they train elsewhere; `--model resnet50 --width 8` tries a narrow one.

Cost on two CPU cores: quick on digits half a minute, on Fashion-MNIST about five minutes.

    python studies/figure2.py --dataset fashion_mnist --preset quick --seeds 3
    ray submit CLUSTER.yaml studies/figure2.py -- --dataset cifar10 --preset paper --device cuda
    ray job submit --working-dir . -- python studies/figure2.py --output /shared/figures

Leaves figure2.png, its data as figure2.csv and what is to be said of it as figure2.md; the errors
of the trainings are in figure2-errors.csv.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

from core.analysis.config import AnalysisConfig
from core.training.config import TrainingConfig
from hpo.analyses.figures.loss_curves import loss_curves
from hpo.run import run_study
from hpo.study.named_rows import METAMIXUP, METAMIXUP_PAPER, MIXUP, NONE
from hpo.study.rows import StudyRow

UNMIXED_IMAGES = 1000


def rows() -> list[StudyRow]:
    """Returns MixUp, both readings, no MixUp."""
    return [MIXUP, METAMIXUP, METAMIXUP_PAPER, NONE]


def adapted(training: TrainingConfig) -> TrainingConfig:
    """Returns the preset's training, looked at; for color images with the paper's ResNet-50."""
    whole = training.model == "preact_resnet18" and training.width is None
    model = "resnet50" if whole else training.model
    analysis = AnalysisConfig(unmixed_images=UNMIXED_IMAGES)
    return replace(training, model=model, analysis=analysis)


main = partial(run_study, "figure2", rows(), __doc__, figure=loss_curves, adapted=adapted)

if __name__ == "__main__":
    sys.exit(main())
