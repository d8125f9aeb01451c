"""Every setting of a training is a flag: the fields of `TrainingConfig` that no row owns."""

from __future__ import annotations

from argparse import (
    SUPPRESS,
    Action,
    ArgumentParser,
    ArgumentTypeError,
    BooleanOptionalAction,
    Namespace,
)
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import core.data
from core.analysis.config import AnalysisConfig
from core.models import MODELS
from core.semi_supervised.config import SemiSupervisedConfig
from core.training.config import OPTIMIZERS, SCHEDULES, TrainingConfig
from core.training.few_label_checks import LABELED_ALONE
from hpo.command_line.flags import flag
from hpo.study.few_label_rows import semi_settings

OWNED: Mapping[str, str] = {
    "policy": "each row has its own; choose rows with --rows",
    "seed": "the trainings of a row count theirs from --first-seed; say how many with --seeds",
    "meta_in_training": "a row has it or not; choose such rows with --rows KEY+meta",
    "left_out": "a row that filters its images has its own; choose such rows with --rows",
    "equal_steps": "a row with +meta behind its name has it",
    "semi.kind": "each row has its own method; choose rows with --rows",
    "semi.labelled": "say how many with --labels",
}
"""Settings that the command line does not give, and the way out."""

_APART = ("dataset", "semi", "analysis")
"""Fields that are no settings: the study's own flag, and what has settings of its own. In a study
of few labels `--labels` says how many, and there is no file of labels."""

LABEL_FILES = ("labels", "checked")
"""Settings that name a file with a number for each training image, known by its fingerprint."""

_NAMED: Mapping[str, Sequence[str]] = {
    "model": MODELS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "augment": (),
}
"""Settings that take a name of ours, or of the user's own: package.module:name."""

_HELP = {
    "augment": "package.module:name of a callable on a batch of training items",
    "optimizer": "sgd, adam, adamw, or package.module:factory (default: the preset's)",
    "schedule": "cosine, step, constant, or package.module:function (default: the preset's)",
    "model": f"{', '.join(MODELS)}, torchvision:NAME, or package.module:factory",
    "weights": "a state dict that the model begins with, for fine-tuning",
    "stop_mixing": "part of the training after which nothing is mixed, 0 to 1 (default: 1)",
    "warmup_epochs": "epochs over which the learning rate rises (default: the preset's)",
    "label_noise": "part of the training labels of each class to make wrong, 0 to 1 (default: 0)",
    "label_noise_kind": "wrong labels: of any other class, or of the next (default: symmetric)",
    "precision": "of the forward passes; bf16 and fp16 are autocast (default: float32)",
    "memory_format": "of the weights; channels_last suits convolutions (default: contiguous)",
    "labels": "training labels of your own in place of the data set's: text, csv, npy or npz, one "
    "integer a training image; FILE::NAME chooses a column or an array",
    "meta_noise": "meta-validation labels are as noisy as those of training (default: they are "
    "clean)",
    "checked": "0 or 1 for each training image, in a file as --labels takes: meta-validation "
    "images are taken from those with 1 alone (default: from all)",
    "loss": "what training descends (default: cross-entropy)",
    "loss_strength": "of the loss: τ, ε, q or λ_elr (default: its source's)",
    "sampling": "balanced draws each class as often, with replacement (default: uniform)",
    "class_weights": "of the loss, by the number of training labels (default: none)",
    "logit_adjustment": "τ of post-hoc logit adjustment of all predictions (default: 0)",
    "dedup": "leave out of training and meta-validation what stands in the test part too",
    "imbalance": "cut the training images to a long tail: largest over smallest class (default: 1)",
}


def settings(semi_supervised: bool = False) -> dict[str, Any]:
    """Returns the type of each setting that a row may leave to the command line, by its name.

    Settings of a part of the configuration have its name before: "semi.threshold" in a study of
    few labels, "analysis.plane_images" in any other.
    """
    part, config = (
        ("semi", SemiSupervisedConfig) if semi_supervised else ("analysis", AnalysisConfig)
    )
    apart = (*_APART, "labels") if semi_supervised else _APART
    types = {name: of for name, of in get_type_hints(TrainingConfig).items() if name not in apart}
    types |= {f"{part}.{name}": of for name, of in get_type_hints(config).items()}
    return types


def add_settings(parser: ArgumentParser, *, semi_supervised: bool = False) -> None:
    """Gives the parser a flag for each setting; what a row owns is refused by name."""
    group = parser.add_argument_group(
        "settings of the training", "What a row sets for itself goes before these."
    )
    for name, of in settings(semi_supervised).items():
        if name in OWNED:
            refused: dict[str, Any] = {
                "action": _Refused,
                "nargs": "?",
                "default": SUPPRESS,
                "help": SUPPRESS,
            }
            group.add_argument(flag(name), dest=name, **refused)
            continue
        choices = _reading(of)
        if name in _NAMED:
            choices = {"type": partial(_name, _NAMED[name]), "metavar": "NAME"}
        elif name in LABEL_FILES:
            choices = {"type": _labels, "metavar": "FILE"}
        # A training with few labels refuses these itself, by name: its help need not offer them.
        text = _HELP.get(name, "overrides the preset")
        if semi_supervised and name in LABELED_ALONE:
            text = SUPPRESS
        group.add_argument(flag(name), dest=name, default=SUPPRESS, help=text, **choices)


def given_settings(args: Namespace, *, semi_supervised: bool = False) -> dict[str, Any]:
    """Returns the settings that a parsed command line gives, by name."""
    return {name: value for name, value in vars(args).items() if name in settings(semi_supervised)}


def with_settings(training: TrainingConfig, given: Mapping[str, Any]) -> TrainingConfig:
    """Returns the training with these settings.

    Of those of few labels it takes what its own method has a use for; rows take the others.

    Raises:
        ValueError: a value is out of range, or the training has no use for it.
    """
    changes = {name: value for name, value in given.items() if "." not in name}
    if training.semi is not None:
        semi = semi_settings(given, training.semi.kind)
        changes["semi"] = replace(training.semi, **semi)
    analysis = {
        name.removeprefix("analysis."): value
        for name, value in given.items()
        if name.startswith("analysis.")
    }
    if analysis:
        changes["analysis"] = replace(training.analysis or AnalysisConfig(), **analysis)
    return replace(training, **changes)


class _Refused(Action):
    """The action ends with the reason why a setting has no flag."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Any, option: str | None = None
    ) -> None:
        written = " ".join(filter(None, [option, values]))
        parser.error(f"{written}: {self.dest} is no flag: {OWNED[self.dest]}")


def _reading(of: Any) -> dict[str, Any]:
    """Returns how argparse reads a value of a type."""
    if NoneType in get_args(of):
        [plain] = [kind for kind in get_args(of) if kind is not NoneType]
        reading = _reading(plain)
        read = partial(_or_none, reading["type"])
        return {"type": read, "metavar": f"{reading['metavar']}|none"}
    if of is bool:
        return {"action": BooleanOptionalAction}
    if get_origin(of) is Literal:
        return {"choices": get_args(of)}
    if get_origin(of) is tuple:
        return {"type": _integers, "metavar": "N,N"}
    if of is str:
        return {"type": _file, "metavar": "FILE"}
    return {"type": of, "metavar": "X" if of is float else "N"}


def _file(text: str) -> str:
    return str(Path(text).expanduser().absolute())  # a worker has another current folder


def _labels(text: str) -> str:
    try:
        return core.data.with_fingerprint(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def _name(known: Sequence[str], text: str) -> str:
    if text not in known and ":" not in text:
        of_the_user = (
            "torchvision:NAME or package.module:factory"
            if known is MODELS
            else "package.module:name"
        )
        names = "".join(f"{name}, " for name in known)
        raise ArgumentTypeError(f"invalid choice: {text!r}; choose among {names}{of_the_user}")
    return text


def _or_none(kind: Callable[[str], Any], text: str) -> Any:
    if text == "none":
        return None
    try:
        return kind(text)
    except ValueError:
        raise ArgumentTypeError(
            f"invalid {kind.__name__} value: {text!r}; give a number or none"
        ) from None


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise ArgumentTypeError(
            f"invalid value: {text!r}; give whole numbers with commas between, such as 10,20"
        ) from None
