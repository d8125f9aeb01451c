"""Figure 4: two-dimensional features of test images, MixUp left, MetaMixUp right.

The paper trains "a network with 2 hidden dimensions" on MNIST and sees that "the representation
learned with MetaMixUp is more discriminative and thus the collision in the feature occurs with
lower probability". Here it is `cnn_2d`, the paper's CNN with a linear layer of two units before the
classifier. Beside the picture, which is of one seed, a number that is of all of them: the part of
the images whose nearest other image in the plane has another label.

Rows: MixUp with Beta(1, 1), MetaMixUp in the default reading and in the paper's. Up to 1,000 test
images are drawn, evenly spaced over the test set.

Cost on two CPU cores: quick on digits half a minute, on Fashion-MNIST about four minutes.

    python studies/figure4.py --dataset mnist --dataset fashion_mnist --preset quick --seeds 3
    ray submit CLUSTER.yaml studies/figure4.py -- --dataset mnist --preset paper --device cuda
    ray job submit --working-dir . -- python studies/figure4.py --output /shared/figures

Leaves figure4.png, figure4.csv (the features) and figure4.md; the table of errors is
figure4-errors.csv.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

from core.analysis.config import AnalysisConfig
from core.training.config import TrainingConfig
from hpo.analyses.figures.plane import plane
from hpo.run import run_study
from hpo.study.named_rows import METAMIXUP, METAMIXUP_PAPER, MIXUP
from hpo.study.rows import StudyRow

PLANE_IMAGES = 1000


def rows() -> list[StudyRow]:
    """Returns MixUp and both readings."""
    return [MIXUP, METAMIXUP, METAMIXUP_PAPER]


def adapted(training: TrainingConfig) -> TrainingConfig:
    """Returns the preset's training of a network with two features, looked at."""
    return replace(training, model="cnn_2d", analysis=AnalysisConfig(plane_images=PLANE_IMAGES))


main = partial(run_study, "figure4", rows(), __doc__, figure=plane, adapted=adapted)

if __name__ == "__main__":
    sys.exit(main())
