"""Figure 3: test error of MetaMixUp against the size of the meta-validation set.

The paper varies the number of validation images of each class on CIFAR-10 and SVHN: "using 10
examples for each class only results in 0.25% drop on CIFAR-10 and 0.1% on SVHN", and more than 100
gain nothing. It does not say whether there is anything to lose: in its own reading λ hardly moves
(`core.PAPER`), whatever the validation set. So both readings are drawn, and MixUp as a band.

Rows: 10, 20, 50, 100, 500 and 1,000 meta-validation images in all (1, 2, 5, 10, 50 and 100 of each
of ten classes; of more classes than images some have none), for both readings; MixUp with
Beta(1, 1) at the preset's number, which it does not learn from.

Two things to know when reading it. Rows of different sizes draw different training images under the
same seed. Where the preset trains on all images that are left, as paper does, a larger validation
set is taken from them; the others train on equally many.

Cost on two CPU cores: quick on digits a minute, on Fashion-MNIST about fifteen.

    python studies/figure3.py --dataset fashion_mnist --preset quick --seeds 3
    python studies/figure3.py --rows beta-1,metamixup-10,metamixup-100,metamixup-1000
    ray submit CLUSTER.yaml studies/figure3.py -- --dataset cifar10 --dataset svhn --preset paper
    ray job submit --working-dir . -- python studies/figure3.py --output /shared/figures

Leaves figure3.png, figure3.csv and figure3.md; the table of errors is figure3-errors.csv. Run
again, a command goes on where it was; finished cells are never trained twice.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

from hpo.analyses.figures.validation_size import Curve, validation_size
from hpo.report.outcome import Extra, Outcome
from hpo.run import run_study
from hpo.study.named_rows import METAMIXUP, METAMIXUP_PAPER, MIXUP
from hpo.study.rows import StudyRow
from studies.rows import renamed

SIZES = (10, 20, 50, 100, 500, 1000)
READINGS = (METAMIXUP, METAMIXUP_PAPER)


def rows() -> list[StudyRow]:
    """Returns MixUp, then both readings at each size."""
    return [MIXUP, *(_sized(reading, size) for reading in READINGS for size in SIZES)]


def _sized(reading: StudyRow, size: int) -> StudyRow:
    label = f"{reading.row.label}, {size} images"
    sized = renamed(reading, key=_key(reading, size), label=label)
    return replace(sized, training={"meta_size": size})


def _key(reading: StudyRow, size: int) -> str:
    return f"{reading.row.key}-{size}"


def draw(outcome: Outcome) -> Extra:
    """Draws the figure."""
    curves = [
        Curve(r.row.key, r.row.label, {size: _key(r, size) for size in SIZES}) for r in READINGS
    ]
    return validation_size(outcome, curves)


main = partial(run_study, "figure3", rows(), __doc__, figure=draw)

if __name__ == "__main__":
    sys.exit(main())
