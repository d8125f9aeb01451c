"""Figure 5: average and minimal distance of mixed samples to real samples of other classes.

The paper trains a simple CNN on MNIST, takes "for each mixed sample the minimal Euclidean distance
in the feature space of the trained network between this mixed sample and all the different labeled
samples", and shows their average and minimum: "the generated samples for MetaMixUp turn out to be
farther to the set of the existing real samples", which it reads as less manifold intrusion.

Here for all policies, up to 2,000 mixed samples, equally many of each epoch, against all training
images (`core.analysis.intrusion`). Two things to know when reading it:

- Feature norms differ between networks, and distances with them. A policy that stretches features
  by two doubles every distance and changes nothing about intrusion. So the right half has distances
  relative to the mean distance between real images of different classes.
- A policy that hardly mixes has its samples where real ones are. No MixUp is drawn for that: its
  "mixed" samples are the training images themselves. The placebo tells what the distribution of λ
  alone does, and frozen λ draws from where learning ended.

The text says for each reading whether the claim holds against MixUp with Beta(1, 1), and whether
the default one's samples are farther than those of its controls.

Cost on two CPU cores: quick on digits a minute, on Fashion-MNIST about seven.

    python studies/figure5.py --dataset mnist --dataset fashion_mnist --preset quick --seeds 3
    ray submit CLUSTER.yaml studies/figure5.py -- --dataset mnist --preset paper --device cuda
    ray job submit --working-dir . -- python studies/figure5.py --output /shared/figures

Leaves figure5.png, figure5.csv and figure5.md; the table of errors is figure5-errors.csv. Run
again, a command goes on where it was; finished cells are never trained twice.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from core.analysis.config import AnalysisConfig
from core.policies import AdaMixUpConfig, Beta, Fixed, PolicyConfig, ScoresConfig
from core.training.config import TrainingConfig
from hpo.analyses.figures.intrusion_bars import intrusion_bars
from hpo.analyses.figures.rows import METAMIXUP, METAMIXUP_PAPER, MIXUP, NONE
from hpo.run import run_study
from hpo.study.rows import Family, Row, StudyRow, controls

MIXED_SAMPLES = 2000


def rows() -> list[StudyRow]:
    """All policies."""
    return [
        NONE,
        _row("beta-0.2", "MixUp (α = 0.2)", "alpha=0.2", "beta", Beta(alpha=0.2)),
        MIXUP,
        _row("fixed-0.5", "MixUp (λ = 0.5)", "lam=0.5", "fixed", Fixed(lam=0.5)),
        _row(
            "adamixup-no-discriminator",
            "AdaMixUp (no discriminator)",
            "adamixup",
            "extra",
            AdaMixUpConfig(discriminator=False),
        ),
        _row("adamixup", "AdaMixUp", "adamixup", "extra", AdaMixUpConfig()),
        METAMIXUP_PAPER,
        METAMIXUP,
        *controls(METAMIXUP, plain=True),
        _row("scores", "Scores", "a score a sample", "learned", ScoresConfig()),
    ]


def _row(key: str, label: str, setting: str, family: Family, policy: PolicyConfig) -> StudyRow:
    return StudyRow(Row(key, label, setting, family), policy)


def adapted(training: TrainingConfig) -> TrainingConfig:
    """The preset's training, looked at."""
    return replace(training, analysis=AnalysisConfig(mixed_samples=MIXED_SAMPLES))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    return run_study("figure5", rows(), __doc__, arguments, figure=intrusion_bars, adapted=adapted)


if __name__ == "__main__":
    sys.exit(main())
