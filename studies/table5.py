"""Table V: how sensitive MetaMixUp + APL is to σd, by a grid and by a search over σd and K.

The paper's numbers (test error in percent; CIFAR-10 with 4000 labels and SVHN with 1000, as its
column of σd = 0.05 is that of Table III):

    σd          0.01    0.05    0.1     0.2
    CIFAR-10    11.84   11.50   11.22   11.98
    SVHN         5.94    5.34    5.55    5.67

The threshold falls from 0.95 by σd every K = 30 of 200 epochs (the same share of a training of
another length): six times, to 0.89, 0.65 and 0.35; with σd = 0.2 it ends below zero and accepts
everything. All rows are compared with σd = 0.05; the controls of that one are in
`studies/table3.py`.

The row `search` spends as much as the four others together: TPE and successive halving over σd and
K, by the error on the meta-validation images. `table5-search.csv` and `.png` set its incumbent
against that of the grid (its best so far by the same images) at equal cost, counted in plain
trainings; `--budget` gives the search another. The test images select nothing. Presets and the
other flags are those of `studies/table3.py`.

    python studies/table5.py --dataset digits --preset smoke
    python studies/table5.py --dataset fashion_mnist --labels 1000 --preset quick --seeds 3
    ray submit CLUSTER.yaml studies/table5.py -- --dataset svhn --output /shared/table5
    ray job submit --working-dir . -- python studies/table5.py --output /shared/table5
"""

from __future__ import annotations

import sys
from functools import partial

from core.policies import LearnedConfig
from hpo.analyses.anytime.grid import grid_contrast
from hpo.run import run_study
from hpo.search.spaces import threshold_fall
from hpo.search.strategies import Sampled
from hpo.study.comparisons import Comparisons
from hpo.study.rows import StudyRow
from studies.rows import few_labels

STEPS = (0.01, 0.05, 0.1, 0.2)
_POLICY = LearnedConfig()


def rows() -> list[StudyRow]:
    """Returns the grid of the table, and the search that is set against it."""
    search = Sampled(_POLICY, threshold_fall)
    label, setting = "σd and K searched", "sigma_d, K searched"
    return [
        *map(_row, STEPS),
        few_labels("search", label, setting, "learned", search, method="apl"),
    ]


def key(step: float) -> str:
    """Returns the key of the row with this σd."""
    return f"apl-{step:g}"


def _row(step: float) -> StudyRow:
    label, setting = f"MetaMixUp + APL (σd = {step:g})", f"sigma_d={step:g}"
    return few_labels(
        key(step), label, setting, "learned", _POLICY, method="apl", threshold_step=step
    )


main = partial(
    run_study,
    "table5",
    rows(),
    __doc__,
    extras=[grid_contrast],
    comparisons=Comparisons(reference=key(0.05)),
)

if __name__ == "__main__":
    sys.exit(main())
