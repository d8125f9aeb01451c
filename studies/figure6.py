"""Figure 6: relative frequency of λ learned by MetaMixUp, beside MixUp's Beta(1, 1).

The paper shows it for MNIST: "a higher frequency of 0 and 1 has occurred in MetaMixUp compared to
MixUp". Whether that is so depends on what the text leaves open. To the letter λ starts uniform,
hardly moves and is squeezed by a sigmoid into [0.50, 0.73]: there is no λ near 0 or 1 at all. In
the default reading, whose hypergradient is scaled so that λ moves, the histogram becomes U-shaped
as in the paper. So both readings are drawn.

Rows: both readings, and MixUp with Beta(1, 1) drawn for each sample, as MetaMixUp starts (one draw
a batch, as in Table II, would leave too few of them for a histogram). Bars are means over seeds
with 95 % interval; the horizontal line is Beta(1, 1) itself. The text gives the parts near 0 and 1
and whether they are higher.

Cost on two CPU cores: quick on digits half a minute, on Fashion-MNIST four; the readings' cells of
Table II below the same --output are used again.

    python studies/figure6.py --dataset mnist --dataset fashion_mnist --preset quick --seeds 3
    ray submit CLUSTER.yaml studies/figure6.py -- --dataset mnist --preset paper --device cuda
    ray job submit --working-dir . -- python studies/figure6.py --output /shared/figures

Leaves figure6.png, figure6.csv and figure6.md; the table of errors is figure6-errors.csv. Run
again, a command goes on where it was; finished cells are never trained twice.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

from core.policies import Beta
from hpo.analyses.figures.lambda_frequency import lambda_frequency
from hpo.run import run_study
from hpo.study.named_rows import METAMIXUP, METAMIXUP_PAPER, MIXUP
from hpo.study.rows import StudyRow


def rows() -> list[StudyRow]:
    """Returns MixUp and both readings."""
    policy = Beta(alpha=1.0, per_sample=True)
    drawn = replace(MIXUP, row=replace(MIXUP.row, label="MixUp (α = 1, per sample)"), recipe=policy)
    return [drawn, METAMIXUP_PAPER, METAMIXUP]


main = partial(run_study, "figure6", rows(), __doc__, figure=lambda_frequency)

if __name__ == "__main__":
    sys.exit(main())
