"""Table IV: Pseudo-Label against asynchronous pseudo-labels (APL), nothing else changed.

The paper's numbers (test error in percent, mean and standard deviation of 5 runs, WRN-28-2):

    method          CIFAR-10                       SVHN
                    1000 labels    4000 labels     500 labels    1000 labels
    Pseudo-Label    25.13 ± 0.46   17.73 ± 0.55    9.91 ± 0.37   7.82 ± 0.31
    APL             24.36 ± 0.62   16.96 ± 0.32    8.68 ± 0.72   7.46 ± 0.27

APL lets the threshold fall: from 0.95 by σd = 0.05 every K = 30 of 200 epochs (the same share of a
training of another length), as Algorithm 2 has it. `apl-literal` is the formula of the paper's text
instead, σ(t−1) − σd·⌊t/K⌋·K, which is below zero from epoch K on and accepts everything; the paper
has no number for it. APL is compared with Pseudo-Label over the same seeds, and
`table4-pseudo-labels.png` shows how many pseudo-labels each accepts and how many of these are
right. Presets and flags are those of `studies/table3.py`; with `supervised-only` among `--rows` the
table tells what either is worth.

    python studies/table4.py --dataset digits --preset smoke
    python studies/table4.py --dataset fashion_mnist --labels 1000 --preset quick --seeds 5
    ray submit CLUSTER.yaml studies/table4.py -- --dataset svhn --labels 500 --output /shared/table4
    ray job submit --working-dir . -- python studies/table4.py --output /shared/table4
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from typing import Any

from core.policies import NoMix
from hpo.run import run_study
from hpo.study.comparisons import Comparisons
from hpo.study.rows import Family, SemiRow, StudyRow
from studies.rows import few_labels

REFERENCE = "pseudo-label"


def rows() -> list[StudyRow]:
    """Returns the paper's two rows, the literal formula, and labelled images alone."""
    return [
        replace(
            _row("supervised-only", "Supervised-Only", "none"),
            semi=SemiRow("supervised-only"),  # Table IV has no number of it
        ),
        _row("pseudo-label", "Pseudo-Label"),
        _row("apl", "APL"),
        _row("apl-literal", "APL (literal formula)", method="apl", threshold_formula="literal"),
    ]


def _row(
    key: str, label: str, family: Family = "extra", method: str = "", **settings: Any
) -> StudyRow:
    return few_labels(key, label, key, family, NoMix(), method=method or key, **settings)


main = partial(run_study, "table4", rows(), __doc__, comparisons=Comparisons(reference=REFERENCE))

if __name__ == "__main__":
    sys.exit(main())
