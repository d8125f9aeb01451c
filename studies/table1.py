"""Table I: no MixUp, MixUp, AdaMixUp and MetaMixUp on each data set and architecture.

The paper's numbers (test error in percent; of ImageNet, crops of 100 pixels, top-1 and top-5; those
of AdaMixUp are quoted there from its own paper, which trains for longer):

    method                 MNIST  Fashion  SVHN  CIFAR-10  CIFAR-100      ImageNet
    3-layer CNN, else PreActResNet-18
    Baseline                0.54     7.31  4.62      5.62      25.20  52.84  29.48
    MixUp                   0.59     6.74  3.83      4.57      21.35  55.06  31.32
    AdaMixUp, no discr.        –        –     –      3.83      24.75      –      –
    AdaMixUp                0.49     6.21  3.12      3.52      20.97  49.17  25.78
    MetaMixUp               0.38     5.15  2.96      3.12      20.36  47.35  24.43
    PreActResNet-34
    Baseline                              4.46      5.32      24.63  50.25  28.59
    MixUp                                 3.35      4.14      20.85  53.26  29.83
    MetaMixUp                             2.42      2.51      18.51  46.89  23.93
    Wide-ResNet-28-10
    Baseline                              4.34      4.74      22.33  50.41  28.38
    MixUp                                 3.31      3.07      19.21  52.96  29.28
    MetaMixUp                             2.33      2.48      18.45  46.38  23.91

Without `--architecture` every data set has the preset's network (paper: the 3-layer CNN on MNIST
and Fashion-MNIST, PreActResNet-18 elsewhere; quick: the CNN). `--architecture NAME`, repeatable,
gives each row once for each network, as `ROW@NAME`, compared within that network; `--rows` then
takes names with and without it. `--width` is for all rows.

Rows that the paper lacks: MetaMixUp in the default reading beside the paper's letter, and its
controls, placebo and frozen λ. (The paper's reading has none, as its λ hardly move: by 0.002 on
average in a training on Fashion-MNIST, quick, and by 0.009 in the first epoch; in the default
reading by 0.23.)

AdaMixUp trains as in the code that its authors released (`core.policies.adamixup.policy`), but by
the optimizer and for the epochs of the other rows, so that rows differ in the policy alone. Its
frozen row draws λ from the regions that it ended with and keeps all else, discriminator included.
`adamixup-own` has
the optimizer of that code, on MNIST, Fashion-MNIST and digits Adam at 1e-3, times 0.3 every 30
epochs, on the others the preset's with its rate divided by 10 after 100 and 150; its counterpart is
MixUp by the same. (Their 400 and 1400 epochs are not kept; of fewer than 30 the rate is constant.
On a folder of your own both rows repeat those above.) In each pass over the data AdaMixUp's
classifier learns from half of the images. A further table and figure say which region λ was drawn
from, whether the discriminator tells mixed images from real ones, on held-out images too, and what
its own networks cost.

Cost in units of a plain training: AdaMixUp 3 by samples (without discriminator 1.5, frozen 2.5), a
learned row and its placebo 4.5. About 26 plain trainings a seed: on Fashion-MNIST, quick, with
three seeds about 20 minutes on two idle cores; paper is for GPUs.

    python studies/table1.py --dataset fashion_mnist --preset quick --seeds 3
    python studies/table1.py --dataset digits --architecture digits_cnn --architecture cnn
    python studies/table1.py --dataset imagenet --preset paper --data-root DIR --device cuda
    python studies/table1.py --dataset cifar10 --preset paper --device cuda \\
        --architecture preact_resnet18 --architecture preact_resnet34 --architecture wrn_28_10
    ray submit CLUSTER.yaml studies/table1.py -- --dataset cifar10 --output /shared/table1
    ray job submit --working-dir . -- python studies/table1.py --output /shared/table1
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from core.models import MODELS
from hpo.analyses.adamixup.report import adamixup_report
from hpo.analyses.top5 import top5_report
from hpo.command_line.flags import program
from hpo.run import run_study
from hpo.study.named_rows import ADAMIXUP, METAMIXUP, METAMIXUP_PAPER, MIXUP, NONE
from hpo.study.recipes import FrozenFrom
from hpo.study.rows import Row, StudyRow, controls
from studies.rows import ADAMIXUP_PLAIN, renamed, with_paper

_SMALL = ("mnist", "fashion_mnist")
_LARGE = ("svhn", "cifar10", "cifar100", "imagenet")

_RESNET18: Mapping[str, tuple[float, ...]] = {
    "none": (4.62, 5.62, 25.20, 52.84),
    "beta-1": (3.83, 4.57, 21.35, 55.06),
    "adamixup": (3.12, 3.52, 20.97, 49.17),
    "metamixup-paper": (2.96, 3.12, 20.36, 47.35),
}
_CNN: Mapping[str, tuple[float, ...]] = {
    "none": (0.54, 7.31),
    "beta-1": (0.59, 6.74),
    "adamixup": (0.49, 6.21),
    "metamixup-paper": (0.38, 5.15),
}
_NO_DISCRIMINATOR = {"cifar10": 3.83, "cifar100": 24.75}
_DEEPER: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "preact_resnet34": {
        "none": (4.46, 5.32, 24.63, 50.25),
        "beta-1": (3.35, 4.14, 20.85, 53.26),
        "metamixup-paper": (2.42, 2.51, 18.51, 46.89),
    },
    "wrn_28_10": {
        "none": (4.34, 4.74, 22.33, 50.41),
        "beta-1": (3.31, 3.07, 19.21, 52.96),
        "metamixup-paper": (2.33, 2.48, 18.45, 46.38),
    },
}

_ADAM = {"optimizer": "adam", "lr": 1e-3, "lr_decay": 0.3, "milestones": tuple(range(30, 400, 30))}
_SGD = {"lr_decay": 0.1, "milestones": (100, 150)}

_OWN: Mapping[str, Mapping[str, Any]] = {
    **{name: {"schedule": "step", **_ADAM} for name in ("digits", *_SMALL)},
    **{name: {"schedule": "step", **_SGD} for name in _LARGE},
}
"""How AdaMixUp's released code trains: settings by data set."""

_TOP5: Mapping[str, Mapping[str, float]] = {
    "preact_resnet18": {
        "none": 29.48,
        "beta-1": 31.32,
        "adamixup": 25.78,
        "metamixup-paper": 24.43,
    },
    "preact_resnet34": {"none": 28.59, "beta-1": 29.83, "metamixup-paper": 23.93},
    "wrn_28_10": {"none": 28.38, "beta-1": 29.28, "metamixup-paper": 23.91},
}
"""Of ImageNet."""


def paper_errors(key: str, architecture: str = "") -> dict[str, float]:
    """Returns the paper's top-1 errors of a row by data set, in percent.

    Args:
        key: the row's, without architecture.
        architecture: of `core.models.MODELS`; "" is the paper's first block, whose network depends
            on the data set.
    """
    if architecture in _DEEPER:
        return dict(zip(_LARGE, _DEEPER[architecture].get(key, ()), strict=False))
    errors: dict[str, float] = {}
    if architecture in ("", "cnn"):
        errors |= zip(_SMALL, _CNN.get(key, ()), strict=False)
    if architecture in ("", "preact_resnet18"):
        errors |= zip(_LARGE, _RESNET18.get(key, ()), strict=False)
        errors |= _NO_DISCRIMINATOR if key == "adamixup-no-discriminator" else {}
    return errors


def paper_top5(architectures: Sequence[str] = ()) -> dict[tuple[str, str], float]:
    """Returns the paper's top-5 errors by (row, data set), in percent.

    Args:
        architectures: as given to `rows`.
    """
    return {
        (f"{key}@{name}" if architectures else key, "imagenet"): value
        for name in architectures or ("preact_resnet18",)
        for key, value in _TOP5.get(name, {}).items()
    }


def rows(architectures: Sequence[str] = ()) -> list[StudyRow]:
    """Returns the rows of the table in the paper's order, once for each architecture.

    Args:
        architectures: of `core.models.MODELS`; none leaves every data set the preset's network.
    """
    table = [
        renamed(NONE, label="Baseline"),
        MIXUP,
        ADAMIXUP_PLAIN,
        ADAMIXUP,
        METAMIXUP_PAPER,
        METAMIXUP,
        *controls(METAMIXUP, plain=True),
        *controls(ADAMIXUP),
        _own(ADAMIXUP, "AdaMixUp, own optimizer", counterpart="beta-1-own"),
        _own(MIXUP, "MixUp, AdaMixUp's optimizer"),
    ]
    if architectures:
        return [_of(each, name) for name in architectures for each in table]
    return with_paper(table, {each.row.key: paper_errors(each.row.key) for each in table})


def _own(original: StudyRow, label: str, counterpart: str | None = None) -> StudyRow:
    """Returns a row by AdaMixUp's own optimizer. None of them competes for the best Beta of the
    others."""
    key, setting = f"{original.row.key}-own", f"{original.row.setting}, own optimizer"
    shown = Row(key, label, setting, "extra", counterpart=counterpart)
    return replace(original, row=shown, by_dataset=_OWN)


def _of(row: StudyRow, architecture: str) -> StudyRow:
    """Returns the row with a network of its own, and a key that says which."""
    plain = row.row

    def there(key: str | None) -> str | None:
        return f"{key}@{architecture}" if key else key

    shown = {
        "key": there(plain.key),
        "label": f"{plain.label}, {architecture}",
        "paper_error": paper_errors(plain.key, architecture),
        "control_of": there(plain.control_of),
        "counterpart": there(plain.counterpart),
        "architecture": architecture,
        "base": plain.key,
        "search": there(plain.search),
    }
    recipe = FrozenFrom(f"{row.frozen_from}@{architecture}") if row.frozen_from else row.recipe
    training = {**row.training, "model": architecture}
    return replace(renamed(row, **shown), recipe=recipe, training=training)


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the architectures that a command line names, and the rest of it for `run_study`.

    Exits with a message on an architecture that it does not know.
    """
    parser = argparse.ArgumentParser(prog=program("table1"), add_help=False, allow_abbrev=False)
    parser.add_argument("--architecture", action="append", choices=MODELS, default=[])
    known, rest = parser.parse_known_args(arguments)
    return list(dict.fromkeys(known.architecture)), rest


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the study; returns the exit status."""
    architectures, rest = split_flags(sys.argv[1:] if arguments is None else arguments)
    extras = [top5_report(paper_top5(architectures)), adamixup_report]
    return run_study("table1", rows(architectures), __doc__, rest, extras=extras)


if __name__ == "__main__":
    sys.exit(main())
