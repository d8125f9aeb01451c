"""Table II: test error for different α and λ of MixUp, and for MetaMixUp.

The paper's numbers (test error in percent; its MetaMixUp row is a WRN-28-10, the others are
PreActResNet-18, on MNIST a 3-layer CNN, so it compares architectures too):

    method              CIFAR-10  CIFAR-100  SVHN   MNIST
    MixUp (α = 0)         5.62      25.20    4.62    0.54
    MixUp (α = 0.5)       4.65      21.67    4.71    0.66
    MixUp (α = 1)         4.57      21.35    4.03    0.59
    MixUp (α = 2)         4.78      21.49    3.86    0.61
    MixUp (λ = 0.1)       5.02      22.56    4.21    0.56
    MixUp (λ = 0.2)       4.69      22.83    4.14    0.59
    MixUp (λ = 0.3)       4.71      22.44    4.42    0.64
    MixUp (λ = 0.4)       5.29      23.29    4.73    0.71
    MixUp (λ = 0.5)       5.88      23.62    4.78    0.70
    MetaMixUp             2.48      18.45    2.33    0.38

Rows that the paper lacks: α found by search (TPE with successive halving on the meta-validation
images, its cost counted), in the quick preset the same with the meta-validation images added to
training (`--rows none+meta,beta-1+meta` does so for others), MetaMixUp in the default reading, and
its controls: the placebo (hypergradients permuted within the batch) and frozen λ (drawn from the
distributions that learning had over time, nothing learned). A second table, `table2-controls.csv`,
sets each learned row against its controls and the best Beta. The reading of the paper has none of
its own: its λ do not move, so that there is nothing to take away. The test images are used once for
each finished training and select nothing.

The primary comparison is MetaMixUp in the default reading against the best constant Beta, no mixing
among them; the positive control that best Beta with α above 0 against no mixing.

The preset `contest` has four rows more: a smaller α, mixing that stops before the last sixth of the
training, MixUp trained five times as long, which costs about what MetaMixUp does, and MetaMixUp
with the size of its moves found by the search that finds α.

Cost with three seeds on two CPU cores, installation apart: smoke on digits under a minute, quick
on digits two minutes, on Fashion-MNIST eight, on CIFAR-10 ten to eleven (loaded). paper is for
GPUs: 600 epochs of 50,000 to 73,000 images in each of 14 rows × seeds, learned rows at 4 to 6
times the cost of a plain one, and the search.

    python studies/table2.py --dataset digits --preset quick --seeds 3
    python studies/table2.py --dataset fashion_mnist --dataset folder:IMAGES --preset quick
    ray submit CLUSTER.yaml studies/table2.py -- --dataset cifar10 --output /shared/table2
    ray job submit --working-dir . -- python studies/table2.py --output /shared/table2
"""

from __future__ import annotations

import sys
from functools import partial

from hpo.run import run_study
from hpo.search.spaces import LEARNED_STEP
from hpo.study.comparisons import BEST_BETA, Comparisons
from hpo.study.named_rows import METAMIXUP, METAMIXUP_PAPER, MIXUP, NONE, SEARCHED, beta, fixed
from hpo.study.rows import StudyRow, controls
from hpo.study.variants import longer, stopped
from studies.rows import renamed, searched, with_paper

_COLUMNS = ("cifar10", "cifar100", "svhn", "mnist")
_NUMBERS = {
    "none": (5.62, 25.20, 4.62, 0.54),
    "beta-0.5": (4.65, 21.67, 4.71, 0.66),
    "beta-1": (4.57, 21.35, 4.03, 0.59),
    "beta-2": (4.78, 21.49, 3.86, 0.61),
    "fixed-0.1": (5.02, 22.56, 4.21, 0.56),
    "fixed-0.2": (4.69, 22.83, 4.14, 0.59),
    "fixed-0.3": (4.71, 22.44, 4.42, 0.64),
    "fixed-0.4": (5.29, 23.29, 4.73, 0.71),
    "fixed-0.5": (5.88, 23.62, 4.78, 0.70),
    "metamixup-paper": (2.48, 18.45, 2.33, 0.38),
}
_PAPER = {key: dict(zip(_COLUMNS, numbers, strict=True)) for key, numbers in _NUMBERS.items()}


def rows() -> list[StudyRow]:
    """Returns the rows of the table, in the paper's order, ours after them."""
    table = [
        renamed(NONE, label="No MixUp (α = 0)"),
        *map(beta, (0.5, 1.0, 2.0)),
        *map(fixed, (0.1, 0.2, 0.3, 0.4, 0.5)),
        SEARCHED,
        METAMIXUP_PAPER,
        METAMIXUP,
        *controls(METAMIXUP, plain=True),
    ]
    return with_paper(table, _PAPER)


CONTENDERS = (
    beta(0.2),
    stopped(MIXUP),
    longer(MIXUP, 5),
    searched(METAMIXUP, LEARNED_STEP),
)
"""What a practitioner would set against MetaMixUp: less mixing, an early end of it, and its cost in
epochs; and MetaMixUp with the size of its moves found as α is."""

COMPARISONS = Comparisons(primary=(("metamixup", BEST_BETA),))

main = partial(run_study, "table2", rows(), __doc__, contenders=CONTENDERS, comparisons=COMPARISONS)

if __name__ == "__main__":
    sys.exit(main())
