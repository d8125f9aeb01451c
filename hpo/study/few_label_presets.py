"""The trainings of the semi-supervised studies by preset: this paper, Oliver et al., MixMatch.

All numbers are here: what the rows of a study share (`training`) and what a method has for itself
(`method`). "Oliver" is the code brain-research/realistic-ssl-evaluation, "MixMatch" the code
google-research/mixmatch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from core.policies import NoMix
from core.semi_supervised.config import SemiKind, SemiSupervisedConfig
from core.training.config import TrainingConfig
from hpo.study import presets

if TYPE_CHECKING:
    from core.data import Source

PRESETS: tuple[str, ...] = (*presets.PRESETS, "oliver", "mixmatch")

METHODS: Mapping[str, SemiKind] = {
    "supervised-only": "supervised",
    "pseudo-label": "pseudo-label",
    "apl": "pseudo-label",
    "pi-model": "pi-model",
    "mean-teacher": "mean-teacher",
    "vat": "vat",
    "vat-em": "vat",
    "mixmatch": "mixmatch",
}
"""What a row can train by, and the kind of `SemiSupervisedConfig` that it is."""

THRESHOLD_STEP = 0.05
"""σd of APL. K is 30 epochs of the paper's 200, and this share of a training of any length:"""
PERIOD_SHARE = 0.15

_PAPER_EPOCHS = 200
_MILESTONES = (0.3, 0.6, 0.9)  # 60, 120 and 180 of 200
_NUMERALS = ("digits", "mnist", "svhn")  # a mirror turns them into something else


@dataclass(frozen=True)
class Method:
    """A `Method` is what a method has for itself.

    Attributes:
        semi: fields of `SemiSupervisedConfig`, but for the number of labels.
        training: fields of `TrainingConfig`.
    """

    semi: Mapping[str, Any]
    training: Mapping[str, Any] = field(default_factory=dict)


def training(dataset: str, preset: str, *, epochs: int | None = None) -> TrainingConfig:
    """Returns the training that all rows share, with labelled images alone.

    `paper`: WRN-28-2, batch 100, 200 epochs, SGD 0.1 with momentum 0.9 and weight decay 1e-4,
    divided by 10 after 60, 120 and 180, flip and 2-pixel translation, 500 meta-validation images
    (digits, which the paper does not have: a small CNN and 200 of them).

    `oliver`: WRN-28-2 with leaky ReLU, Adam, batch 100 (half of it labelled), about 500,000 steps,
    rate × 0.2 after four fifths, images contrast-normalized and whitened, flipped, shifted by 2
    pixels and with noise (SVHN in [−1, 1], shifted alone).

    `mixmatch`: the same network, Adam with decoupled weight decay 0.02, batch 64, about 2^20 steps,
    images in [−1, 1], flipped (but SVHN) and shifted by 4 pixels. In that code a moving average is
    evaluated with every method; here with Mean Teacher and MixMatch alone.

    `quick`: reduced images, sets and networks. `contest`: the same four times as long, with a
    warm-up. `smoke`: the same trimmed to seconds; its numbers
    mean nothing.

    Args:
        dataset: a name of `core.data.DATASETS` or `folder:PATH`.
        preset: one of PRESETS.
        epochs: another length; what happens after so many epochs moves with it.

    Raises:
        ValueError: the preset is unknown.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
    shared = {
        "paper": _paper,
        "oliver": _oliver,
        "mixmatch": _mixmatch,
        "quick": _quick,
        "contest": _contest,
        "smoke": _smoke,
    }[preset](dataset)
    if epochs is not None:
        moved = tuple(round(m * epochs / shared.epochs) for m in shared.milestones)
        shared = replace(shared, epochs=epochs, milestones=moved)
    return shared


def fit_to(config: TrainingConfig, source: Source) -> TrainingConfig:
    """Returns the training with its sizes cut to what a small data set has, class-balanced.

    As `hpo.study.presets.fit_to`; a tenth of the training images at most are labelled.
    """
    assert config.semi is not None
    n, classes = len(source.train_labels), source.num_classes
    labelled = min(config.semi.labelled, max(classes, n // 10))
    semi = replace(config.semi, labelled=labelled // classes * classes)
    return presets.fit_to(replace(config, semi=semi), source)


def method(name: str, config: TrainingConfig, preset: str, values: int) -> Method:
    """Returns what the method has for itself in a preset.

    Args:
        name: one of METHODS.
        config: of the row's data set and length; its other settings are not read.
        preset: one of PRESETS.
        values: numbers of an image, C·H·W.
    """
    svhn = config.dataset == "svhn"
    semi = dict(_SEMI[name])
    settings: dict[str, Any] = {}
    if preset == "oliver":
        settings["lr"] = _OLIVER_RATES[name]
        if name in ("pseudo-label", "apl"):
            semi |= _SIGMOID
        if name == "mixmatch":
            settings |= _MIXMATCH_OPTIMIZER
    elif preset == "mixmatch" and name in _MIXMATCH:
        semi |= _MIXMATCH[name]
    elif preset in ("quick", "contest", "smoke"):
        semi |= _REDUCED.get(name, {})
    if METHODS[name] == "vat":
        semi["epsilon"] = _epsilon(preset, svhn, values)
    if name == "mixmatch" and "weight" not in semi:
        semi["weight"] = 250.0 if svhn else 75.0
    if preset == "smoke" and "threshold" in semi:
        semi["threshold"] = 0.15  # or nothing would be accepted
    if name == "apl":
        semi["threshold_step"] = THRESHOLD_STEP
        semi["threshold_period"] = max(1, round(PERIOD_SHARE * config.epochs))
    return Method({"kind": METHODS[name], **semi}, settings)


_SIGMOID = {"ramp": "sigmoid", "ramp_share": 0.4}
"""Oliver: 200,000 of 500,000 steps."""

_SEMI: Mapping[str, Mapping[str, Any]] = {
    "supervised-only": {},
    "pseudo-label": {"threshold": 0.95},
    "apl": {"threshold": 0.95},
    "pi-model": {"weight": 20.0, **_SIGMOID},
    "mean-teacher": {"weight": 8.0, "ema": 0.95, **_SIGMOID},
    "vat": {"weight": 0.3, **_SIGMOID},
    "vat-em": {"weight": 0.3, "entropy": 0.1, **_SIGMOID},
    "mixmatch": {"ema": 0.999, "ramp": "linear", "ramp_share": 1 / 64},
}
"""Of all presets but where a source below says otherwise: Oliver's weights, MixMatch's own. The
paper names none but σ0, and no ramp for pseudo-labels."""

_REDUCED: Mapping[str, Mapping[str, Any]] = {
    "pseudo-label": _SIGMOID,
    "apl": _SIGMOID,
    "mixmatch": {"weight": 10.0, "ema": 0.99, "ramp": "linear", "ramp_share": 0.4},
}
"""Of trainings of some thousand steps. The sources' own are for half a million and more: a moving
average of 0.999 would still know the beginning, a λ_U of 75 would hold before anything is learned.
Found with single trainings on Fashion-MNIST (seeds 0 and 1)."""

_OLIVER_RATES = {
    "supervised-only": 3e-3,
    "pseudo-label": 3e-4,
    "apl": 3e-4,
    "pi-model": 3e-4,
    "mean-teacher": 4e-4,
    "vat": 3e-3,
    "vat-em": 3e-3,
    "mixmatch": 2e-3,
}

_MIXMATCH_OPTIMIZER: dict[str, Any] = {
    "optimizer": "adamw",
    "weight_decay": 0.02,
    "schedule": "constant",
    "milestones": (),
}

_LINEAR = {"ramp": "linear", "ramp_share": 0.4}
_MIXMATCH: Mapping[str, Mapping[str, Any]] = {
    "pseudo-label": _LINEAR,
    "apl": _LINEAR,
    "pi-model": {"weight": 10.0, **_LINEAR},
    "mean-teacher": {"weight": 50.0, "ema": 0.999, **_LINEAR},
    "vat": _LINEAR,
    "vat-em": {"entropy": 0.06, **_LINEAR},
}
"""The baselines of the MixMatch code where they differ from Oliver's."""


def _epsilon(preset: str, svhn: bool, values: int) -> float:
    """Returns how long VAT's perturbation is: 6 of an image's norm of 55 (Oliver), on SVHN 1 of 22.

    That norm is the root of the number of values where these have a standard deviation of 1, so
    that smaller images get a shorter one; whitened images, and those in [−1, 1], keep the source's.
    """
    if preset in ("oliver", "mixmatch"):
        return 1.0 if svhn else 6.0
    share = 1.0 / 22.0 if svhn else 6.0 / 55.0
    return round(share * values**0.5, 2)


def _labelled(labels: int) -> SemiSupervisedConfig:
    return SemiSupervisedConfig("supervised", labels)


def _training(dataset: str, **own: Any) -> TrainingConfig:
    return TrainingConfig(
        dataset=dataset,
        policy=NoMix(),
        meta_size=500,
        batch_size=100,
        meta_batch_size=100,
        semi=_labelled(1000),
        **own,
    )


def _paper(dataset: str) -> TrainingConfig:
    config = _training(
        dataset,
        model="wrn_28_2",
        epochs=_PAPER_EPOCHS,
        lr=0.1,
        schedule="step",
        milestones=_milestones(_PAPER_EPOCHS),
        translate=2,
    )
    if dataset == "digits":
        config = replace(config, model="digits_cnn", meta_size=200, semi=_labelled(100))
    return config


def _milestones(epochs: int) -> tuple[int, ...]:
    return tuple(round(share * epochs) for share in _MILESTONES)


def _oliver(dataset: str) -> TrainingConfig:
    epochs = {"svhn": 350, "mnist": 425, "fashion_mnist": 425, "digits": 500}.get(dataset, 550)
    svhn = dataset == "svhn"
    return replace(
        _paper(dataset),
        **_network(dataset),
        epochs=epochs,
        batch_size=50,  # and as many unlabelled images
        meta_batch_size=50,
        optimizer="adam",
        weight_decay=0.0,
        lr=_OLIVER_RATES["supervised-only"],
        milestones=(round(0.8 * epochs),),
        lr_decay=0.2,
        flip=dataset not in _NUMERALS,
        padding="reflect",
        normalisation="unit" if svhn else "gcn-zca",
        noise=0.0 if svhn else 0.15,
    )


def _network(dataset: str) -> dict[str, Any]:
    """Returns Oliver et al.'s network. TensorFlow's BatchNorm has other defaults than PyTorch's,
    and both sources keep 0.999 of the running statistics: averaged weights need statistics of as
    many steps."""
    if dataset == "digits":
        return {"model": "digits_cnn"}
    return {"model": "wrn_28_2_leaky", "batchnorm_momentum": 0.001, "batchnorm_eps": 1e-3}


def _mixmatch(dataset: str) -> TrainingConfig:
    epochs = {"svhn": 930, "mnist": 1150, "fashion_mnist": 1150, "digits": 1000}.get(dataset, 1470)
    return replace(
        _paper(dataset),
        **_network(dataset),
        epochs=epochs,
        batch_size=64,
        meta_batch_size=64,
        lr=2e-3,
        **_MIXMATCH_OPTIMIZER,
        flip=dataset not in _NUMERALS,
        translate=1 if dataset == "digits" else 4,
        padding="reflect",
        normalisation="unit",
    )


_QUICK: Mapping[str, dict[str, Any]] = {
    "digits": {
        "model": "digits_cnn",
        "image_size": None,
        "train_size": 1000,
        "meta_size": 200,
        "epochs": 100,
        "batch_size": 50,
        "meta_batch_size": 50,
        "semi": _labelled(50),
    },
    "mnist": {"image_size": 14},
    "fashion_mnist": {"image_size": 14},
}


def _quick(dataset: str) -> TrainingConfig:
    config = _training(
        dataset,
        model="cnn",
        image_size=16,
        width=16,
        train_size=10_000,
        epochs=27,  # so that σ falls six times, every 4 epochs, as in the paper's 200
        lr=0.05,
        flip=dataset not in _NUMERALS,
        translate=1,
    )
    return replace(config, **_QUICK.get(dataset, {}))


def _contest(dataset: str) -> TrainingConfig:
    config = _quick(dataset)
    milestones = tuple(4 * epoch for epoch in config.milestones)
    return replace(config, epochs=4 * config.epochs, milestones=milestones, warmup_epochs=2)


def _smoke(dataset: str) -> TrainingConfig:
    return replace(
        _quick(dataset),
        train_size=150,
        meta_size=50,
        epochs=2,
        batch_size=25,
        meta_batch_size=25,
        semi=_labelled(50),
    )
