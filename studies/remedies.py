"""What do long tails and wrong labels need: a learned λ, or the remedies that cost nothing?

The paper has no such table. Each remedy is a row of its own, from its source and at its source's
value, and a row together with scores for the training images (`core.PersistentScores`):

    logit-adjusted    cross-entropy at logits + τ log π, τ = 1 (Menon et al. 2021)
    balanced          every class drawn as often, with replacement
    class-weights     by the effective number of images, β = 0.9999 (Cui et al. 2019)
    post-hoc          τ log π taken off the logits of a plain training, τ = 1 (Menon et al. 2021)
    smoothed          label smoothing, ε = 0.1 (Szegedy et al. 2016)
    gce               generalized cross-entropy, q = 0.7 (Zhang and Sabuncu 2018)
    elr               early-learning regularization, λ = 3, β = 0.7 (Liu et al. 2020)
    cutmix            α = 1, half of the batches (Yun et al. 2019)
    cleanlab          trained on what cleanlab leaves of the images, by the predictions of five
                      trainings that each hold out a fold (Northcutt et al. 2021)
    trivial-augment   torchvision's TrivialAugmentWide for each image (Müller and Hutter 2021)

`scores+KEY` is compared with KEY: what scores add to the remedy, their mixing and what they learn
together. `beta-1+KEY`, the remedy with MixUp, has the mixing alone. `none-x5` trains five times as
long, about what a row with scores costs. Beside them no MixUp, MixUp, and the scores with their
controls, and the rivals that learn weights of images from the same images by the same
hypergradient: Learning to Reweight (`core.LearningToReweight`) and Meta-Weight-Net
(`core.MetaWeightNet`). The primary comparisons are what learned scores add to mixing beside a
remedy, `scores+KEY` against `beta-1+KEY`: KEY is the logit-adjusted loss, for long tails, and
generalized cross-entropy, for wrong labels. The positive control is a remedy that is known to help:
the same two, against none.
Priors and weights of classes are those of the training labels as they are trained with. A meta
stage judges by cross-entropy always, under the logits as they are adjusted.

The preset `contest` has rows besides, or they are asked for: `beta-1+KEY` of the other remedies,
the placebos of `scores+logit-adjusted` and of `scores+gce`, and `KEY-searched`, in which the same
search that finds α finds a row's own knob by the meta-validation error: of logit-adjusted,
post-hoc, smoothed, gce, elr (its λ), cutmix (its α), of scores (how far they move), of l2rw (the
learning rate: without BatchNorm its steps may be too long at that of the others), and of
meta-weight-net (the same, and the rate of its network).

    python studies/remedies.py --dataset fashion_mnist --preset contest --imbalance 50
    python studies/remedies.py --dataset fashion_mnist --preset contest --label-noise 0.4
    python studies/remedies.py --dataset fashion_mnist --preset contest --label-noise 0.4 \\
        --label-noise-kind pair --meta-noise
    python studies/remedies.py --dataset cifar10 --labels worse.npy --meta-noise

With `--meta-noise` there is no clean image to learn from; `--labels FILE` trains with labels of
one's own, such as those that people gave CIFAR-10. A remedy is set on all rows by its flag, as
`--sampling balanced`: a row that has a setting for itself keeps it.

Cost of a seed in plain trainings: remedies 1 each (elr 1.3), those with scores about 4.5 each, and
of a searched row 12 trials once.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from typing import Any

from core.policies import CutMix, NoMix, PolicyConfig, ScoresConfig
from hpo.run import run_study
from hpo.search.spaces import (
    BETA_ALPHA,
    LEARNING_RATE,
    LOGIT_ADJUSTMENT,
    LOSS_STRENGTHS,
    SCORES_STEP,
    WEIGHT_NET_RATES,
    Space,
)
from hpo.study.comparisons import Comparisons
from hpo.study.named_rows import MIXUP, NONE, SEARCHED, beta, row
from hpo.study.recipes import FilteredBy
from hpo.study.rows import Row, StudyRow, controls
from hpo.study.variants import longer
from studies.rows import L2RW, META_WEIGHT_NET, SCORES, searched

FOLDS = 5

_PLAIN = NoMix()


def _remedy(
    key: str, label: str, setting: str, policy: PolicyConfig = _PLAIN, **training: Any
) -> StudyRow:
    return row(key, label, setting, "extra", policy, **training)


REMEDIES = (
    _remedy("logit-adjusted", "Logit-adjusted loss", "tau=1", loss="logit-adjusted"),
    _remedy("balanced", "Balanced sampling", "balanced", sampling="balanced"),
    _remedy("class-weights", "Class weights", "effective number", class_weights="effective"),
    _remedy("post-hoc", "Post-hoc logit adjustment", "tau=1", logit_adjustment=1.0),
    _remedy("smoothed", "Label smoothing", "epsilon=0.1", loss="smoothed"),
    _remedy("gce", "Generalized cross-entropy", "q=0.7", loss="gce"),
    _remedy("elr", "Early-learning regularization", "lambda=3", loss="elr"),
    _remedy("cutmix", "CutMix", "alpha=1, half of the batches", CutMix()),
    _remedy(
        "trivial-augment",
        "TrivialAugment",
        "wide",
        augment="torchvision.transforms.v2:TrivialAugmentWide",
    ),
)
"""At their sources' values."""

_SPACES: dict[str, Space] = {
    **LOSS_STRENGTHS,
    "post-hoc": LOGIT_ADJUSTMENT,
    "cutmix": BETA_ALPHA,
}
"""Of the remedies that have a knob, where it is searched."""


def with_scores(remedy: StudyRow) -> StudyRow:
    """Returns the remedy together with scores; it is compared with the remedy."""
    key, label = remedy.row.key, remedy.row.label
    scores = ScoresConfig(mixing="area" if key == "cutmix" else "input")
    shown = Row(
        f"scores+{key}",
        f"Scores + {label}",
        f"{remedy.row.setting}, a score a sample",
        "learned",
        counterpart=key,
    )
    return replace(remedy, row=shown, recipe=scores)


def with_mixup(remedy: StudyRow) -> StudyRow:
    """Returns the remedy together with MixUp, α = 1; it is compared with the remedy."""
    key, label = remedy.row.key, remedy.row.label
    setting = f"{remedy.row.setting}, {MIXUP.row.setting}"
    shown = Row(f"beta-1+{key}", f"{MIXUP.row.label} + {label}", setting, "extra", counterpart=key)
    return replace(remedy, row=shown, recipe=MIXUP.recipe)


FILTERED = (
    *(
        _remedy(f"fold-{k}", f"Without fold {k} of {FOLDS}", f"fold-{k}", folds=FOLDS, fold=k - 1)
        for k in range(1, FOLDS + 1)
    ),
    row(
        "cleanlab",
        "cleanlab, then training",
        "without what it suspects",
        "extra",
        FilteredBy(tuple(f"fold-{k}" for k in range(1, FOLDS + 1)), _PLAIN),
    ),
)
"""The trainings that predict each image without having seen it, and the one on what is left."""


_PRIMARY = tuple(each for each in REMEDIES if each.row.key in ("logit-adjusted", "gce"))
"""Beside these, on a long tail and with wrong labels, learned scores are to beat plain mixing."""


def rows() -> list[StudyRow]:
    """Returns the rows of the table."""
    return [
        NONE,
        beta(0.2),
        MIXUP,
        SEARCHED,
        longer(NONE, 5),
        *REMEDIES,
        *FILTERED,
        SCORES,
        *controls(SCORES),
        *map(with_scores, REMEDIES),
        *map(with_mixup, _PRIMARY),
        L2RW,
        META_WEIGHT_NET,
    ]


CONTENDERS = (
    *(with_mixup(each) for each in REMEDIES if each.policy == _PLAIN and each not in _PRIMARY),
    *(controls(with_scores(each))[0] for each in _PRIMARY),
    *(searched(each, _SPACES[each.row.key]) for each in REMEDIES if each.row.key in _SPACES),
    searched(SCORES, SCORES_STEP),
    searched(L2RW, LEARNING_RATE),
    searched(META_WEIGHT_NET, WEIGHT_NET_RATES),
)
"""Remedies with MixUp, which mixes and learns no λ, and the placebo of scores beside a
remedy; remedies, scores and learned weights, whose own knob is found as α is. Learning to Reweight
has none; learned weights make steps of very different lengths, so that they have a learning rate of
their own."""

COMPARISONS = Comparisons(
    primary=tuple((f"scores+{each.row.key}", f"beta-1+{each.row.key}") for each in _PRIMARY),
    positive_where={
        "imbalance": ("logit-adjusted", "none"),
        "label_noise": ("gce", "none"),
        "labels": ("gce", "none"),
    },
)

main = partial(
    run_study, "remedies", rows(), __doc__, contenders=CONTENDERS, comparisons=COMPARISONS
)

if __name__ == "__main__":
    sys.exit(main())
