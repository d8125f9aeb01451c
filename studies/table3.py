"""Table III: test error of semi-supervised methods with few labels, and of MetaMixUp in them.

The paper's numbers (test error in percent, mean and standard deviation of 5 runs, WRN-28-2; those
of the Π-model, Mean Teacher and VAT are Oliver et al.'s):

    method                        CIFAR-10               SVHN
                                  1000      4000 labels  500       1000 labels
    Supervised-Only               35.95     20.34        17.71     12.93
    Pseudo-Label                  25.13     17.73         9.91      7.82
    Π-Model                       24.81     16.37         8.82      7.19
    Mean Teacher                  23.38     15.87         8.01      5.65
    VAT                           21.52     13.86         6.21      5.63
    VAT + EM                      21.28     13.13         6.14      5.35
    MixUp + Pseudo-Label          23.47     15.04         7.42      6.42
    MixUp + APL                   22.85     14.79         6.73      6.37
    MetaMixUp + Pseudo-Label      21.29     12.64         6.18      6.17
    MetaMixUp + APL               20.66     11.50         6.05      5.34
    MixMatch w/o MixUp            -         10.97         -         4.89
    MixMatch                       7.87      6.42         3.79      3.32
    MixMatch + MetaMixUp           7.69      6.21         3.63      3.25

The table shows the number whose data set and `--labels` are those trained with. APL is the
pseudo-label with a falling threshold (Algorithm 2). MixUp draws one λ ~ Beta(1, 1) for each sample,
as Algorithm 2 has one coefficient for each; MixMatch Beta(0.75, 0.75). MetaMixUp is the default
reading (`core.Reading`), and starts from the distribution that it replaces.

Rows that the paper lacks: the controls of the three learned rows, a placebo (hypergradients
permuted within the batch) and frozen λ (drawn from the distributions that learning had).
`table3-controls.csv` sets each learned row against both and against the same method with MixUp.
All rows are compared with Supervised-Only, and those that are not better are named. The labels of
the meta-validation images, which learned rows see, are counted in a column of their own;
`--rows supervised-only,supervised-only+meta` tells what they are worth as training images.
`table3-pseudo-labels.png` shows how many pseudo-labels are accepted, and how many of them are
right.

The primary comparison is MixMatch + MetaMixUp against MixMatch, the positive control MixMatch
against Supervised-Only.

The preset `contest` has a row more for each of these, `KEY-searched`, whose own knob is found by
the search that finds α in `studies/table2.py`, by the error on the meta-validation images: the
learning rate of Supervised-Only, the threshold of pseudo-labels, the fall of APL's, the length of
VAT's perturbation, the weight of Π-Model, Mean Teacher and MixMatch; α of what mixes besides, and
of learned rows the size of their moves. A search is 12 trials of three trainings, and these rows
are most of a contest's cost; `--rows` leaves them out.

Presets: `paper` has this paper's settings, `oliver` those of Oliver et al. and `mixmatch` those of
the MixMatch code, with their optimizers, weights, normalisation and augmentation
(`hpo/study/few_label_presets.py`); all three are for GPUs. `quick` is reduced, `smoke` means
nothing. The flag
`--epochs` shortens a preset: rate and threshold fall at the same shares of the training.

    python studies/table3.py --dataset digits --preset smoke
    python studies/table3.py --dataset fashion_mnist --labels 1000 --preset quick --seeds 3
    python studies/table3.py --dataset cifar10 --labels 4000 --preset paper --device cuda
    ray submit CLUSTER.yaml studies/table3.py -- --dataset svhn --labels 500 --output /shared/table3
    ray job submit --working-dir . -- python studies/table3.py --output /shared/table3
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from core.meta.reading import DEFAULT
from core.policies import Beta, LearnedConfig, NoMix, PolicyConfig
from hpo.run import run_study
from hpo.search.spaces import (
    BETA_ALPHA,
    LEARNED_STEP,
    LEARNING_RATE,
    PERTURBATION,
    THRESHOLD,
    THRESHOLD_STEP,
    UNLABELLED_WEIGHT,
    Space,
)
from hpo.study.comparisons import Comparisons
from hpo.study.rows import Family, StudyRow, controls
from studies.rows import few_labels, renamed, searched

REFERENCE = "supervised-only"

_MIXUP = Beta(alpha=1.0, per_sample=True)
_MIXMATCH = Beta(alpha=0.75, per_sample=True)
_LEARNED = LearnedConfig()
_LEARNED_MIXMATCH = LearnedConfig(reading=replace(DEFAULT, init_alpha=0.75))


def rows() -> list[StudyRow]:
    """Returns the rows in the paper's order, the controls of the learned ones after them."""
    table = [
        _plain("supervised-only", "Supervised-Only", family="none"),
        _plain("pseudo-label", "Pseudo-Label"),
        _plain("pi-model", "Π-Model"),
        _plain("mean-teacher", "Mean Teacher"),
        _plain("vat", "VAT"),
        _plain("vat-em", "VAT + EM"),
        _mixed("mixup-pseudo-label", "MixUp + Pseudo-Label", "pseudo-label", _MIXUP),
        _mixed("mixup-apl", "MixUp + APL", "apl", _MIXUP),
        _learned(
            "metamixup-pseudo-label",
            "MetaMixUp + Pseudo-Label",
            "pseudo-label",
            _LEARNED,
            "mixup-pseudo-label",
        ),
        _learned("metamixup-apl", "MetaMixUp + APL", "apl", _LEARNED, "mixup-apl"),
        _plain("mixmatch-no-mixup", "MixMatch w/o MixUp", "mixmatch"),
        _mixed("mixmatch", "MixMatch", "mixmatch", _MIXMATCH),
        _learned(
            "mixmatch-metamixup",
            "MixMatch + MetaMixUp",
            "mixmatch",
            _LEARNED_MIXMATCH,
            "mixmatch",
        ),
    ]
    learned = [row for row in table if row.row.family == "learned"]
    return [*table, *(control for row in learned for control in controls(row))]


def _learned(key: str, label: str, method: str, policy: PolicyConfig, like: str) -> StudyRow:
    setting = "reading=default"
    return few_labels(key, label, setting, "learned", policy, method=method, counterpart=like)


def _mixed(key: str, label: str, method: str, policy: Beta) -> StudyRow:
    return few_labels(
        key, label, f"alpha={policy.alpha}, per sample", "beta", policy, method=method
    )


def _plain(key: str, label: str, method: str = "", family: Family = "extra") -> StudyRow:
    method = method or key
    return few_labels(key, label, method, family, NoMix(), method=method)


_KNOBS: Mapping[str, Space] = {
    "supervised-only": LEARNING_RATE,
    "pseudo-label": THRESHOLD,
    "apl": THRESHOLD_STEP,
    "pi-model": UNLABELLED_WEIGHT,
    "mean-teacher": UNLABELLED_WEIGHT,
    "vat": PERTURBATION,
    "vat-em": PERTURBATION,
    "mixmatch": UNLABELLED_WEIGHT,
}
"""By the method of a row."""


def _contender(original: StudyRow) -> StudyRow:
    """Returns the row with its method's knob found by a search, and that of its policy."""
    assert original.semi is not None
    own = {"learned": LEARNED_STEP, "beta": BETA_ALPHA}.get(original.row.family, {})
    tuned = searched(original, {**_KNOBS[original.semi.method], **own})
    if original.row.counterpart is not None:
        return renamed(tuned, counterpart=f"{original.row.counterpart}-searched")
    return renamed(tuned, family="extra") if original.row.family == "none" else tuned


CONTENDERS = tuple(_contender(each) for each in rows() if each.row.control_of is None)
"""The table with each method's knob found alike."""

COMPARISONS = Comparisons(
    primary=(("mixmatch-metamixup", "mixmatch"),),
    positive=("mixmatch", REFERENCE),
    reference=REFERENCE,
)

main = partial(run_study, "table3", rows(), __doc__, contenders=CONTENDERS, comparisons=COMPARISONS)

if __name__ == "__main__":
    sys.exit(main())
