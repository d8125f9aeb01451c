"""The full configuration of one training, as frozen dataclasses that turn into plain JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from core.adamixup import AdaMixUp
from core.amortised import Amortised
from core.analysis.config import AnalysisConfig
from core.data.label_noise import NOISE_KINDS, NoiseKind
from core.data.transforms import NORMALISATIONS, PADDINGS, Normalisation, Padding
from core.models import ImageClassifier
from core.persistent_scores import SCORES, PersistentScores
from core.policies import Beta, Fixed, Frozen, Learned, NoMix, Policy
from core.reading import DEFAULT, Reading
from core.semi_supervised.config import MIXING_KINDS, SemiSupervisedConfig
from core.validation_gradient import ValidationGradient

PolicyKind = Literal[
    "none",
    "beta",
    "fixed",
    "frozen",
    "learned",
    "placebo",
    "scores",
    "scores-placebo",
    "adamixup",
    "adamixup-no-discriminator",
]

_READINGS: Mapping[str, Reading] = {
    "learned": DEFAULT,
    "placebo": DEFAULT,
    "scores": SCORES,
    "scores-placebo": SCORES,
}
"""The kinds that learn, and how each does by default."""

_DISCRIMINATOR: Mapping[str, bool] = {"adamixup": True, "adamixup-no-discriminator": False}
"""The kinds that have networks of their own, and which of them discriminates."""

_SGD_MOMENTUM = 0.9


@dataclass(frozen=True)
class PolicyConfig:
    """Which interpolation policy, with what it needs and nothing else.

    Attributes:
        kind: "none", "beta" (needs alpha), "fixed" (needs lam), "frozen" (needs quantiles); those
            that learn (reading): "learned" and its "placebo", and with a score for each training
            sample "scores" and "scores-placebo"; those that have networks of their own: "adamixup"
            and, without its intrusion discriminator, "adamixup-no-discriminator".
        alpha: of Beta(alpha, alpha).
        per_sample: one draw for each sample instead of one for the batch.
        lam: the fixed λ.
        quantiles: of the distribution that "frozen" draws λ from; see `Frozen`.
        last_blocks, refresh_every, every: the cheaper meta stages of a learned policy: through the
            last blocks of the network alone; the validation gradient computed at every k-th stage;
            a stage at every k-th step, λ between predicted or that of the scores. See `Learned`,
            `Amortised` and `PersistentScores`.
        reading: of a policy that learns. None becomes the kind's default reading, field by field,
            so that a stored configuration says what was trained even when the default has moved on.
    """

    kind: PolicyKind
    alpha: float | None = None
    per_sample: bool = False
    lam: float | None = None
    reading: Reading | None = None
    last_blocks: int | None = None
    refresh_every: int = 1
    every: int = 1
    quantiles: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.reading is None and self.kind in _READINGS:
            object.__setattr__(self, "reading", _READINGS[self.kind])
        if self.kind not in _DISCRIMINATOR:
            self.build()
        needed = {
            "none": (),
            **dict.fromkeys(_DISCRIMINATOR, ()),
            "beta": ("alpha", "per_sample"),
            "fixed": ("lam",),
            "frozen": ("quantiles",),
        }.get(self.kind, ("reading", "last_blocks", "refresh_every", "every"))
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if field.name not in needed and value != field.default:
                raise ValueError(
                    f"policy {self.kind} has no use for {field.name}={value!r}; leave it out"
                )

    def build(self, network: Callable[[], ImageClassifier] | None = None) -> Policy:
        """The policy itself.

        Args:
            network: makes a network like the one to train, with weights of its own. The kinds that
                have networks of their own need it.

        Raises:
            ValueError: the kind is unknown, a value it needs is missing or out of range.
        """
        if self.kind == "none":
            return NoMix()
        if self.kind == "beta":
            if self.alpha is None:
                raise ValueError("policy beta needs alpha, got None")
            return Beta(self.alpha, self.per_sample)
        if self.kind == "fixed":
            if self.lam is None:
                raise ValueError("policy fixed needs lam, got None")
            return Fixed(self.lam)
        if self.kind == "frozen":
            if self.quantiles is None:
                raise ValueError("policy frozen needs quantiles, got None")
            return Frozen(self.quantiles)
        if self.kind in _READINGS:
            return self._learned()
        if self.kind in _DISCRIMINATOR:
            if network is None:
                raise ValueError(f"policy {self.kind} has a network of its own and needs `network`")
            return AdaMixUp(network(), discriminator=_DISCRIMINATOR[self.kind])
        raise ValueError(
            f"policy kind must be one of {', '.join(get_args(PolicyKind))}; got {self.kind!r}"
        )

    def _learned(self) -> Policy:
        if self.last_blocks is not None and self.last_blocks < 1:
            raise ValueError(f"last_blocks must be None or at least 1, got {self.last_blocks}")
        kept = ValidationGradient(self.refresh_every)
        reading = self.reading or _READINGS[self.kind]
        validation_gradient = kept if self.refresh_every > 1 else None
        if self.kind in ("scores", "scores-placebo"):
            return PersistentScores(
                reading,
                every=self.every,
                placebo=self.kind == "scores-placebo",
                last_blocks=self.last_blocks,
                validation_gradient=validation_gradient,
            )
        learned = Learned(
            reading,
            placebo=self.kind == "placebo",
            last_blocks=self.last_blocks,
            validation_gradient=validation_gradient,
        )
        amortised = Amortised(learned, every=self.every)
        return amortised if self.every > 1 else learned


@dataclass(frozen=True)
class TrainingConfig:
    """One training: data, model, policy, optimisation, seed.

    What cannot change the result on a given kind of device (where the data lie, which device, how
    often a checkpoint is written) is not part of it.

    Attributes:
        dataset: a name of `core.data.DATASETS`, or `folder:PATH`.
        image_size: height and width after area averaging; None keeps the data's own.
        train_size: training images, class-balanced; None takes all that meta-validation leaves.
        imbalance: largest over smallest class of the training images, which are cut to a long
            tail: see `core.data.long_tail`. 1 leaves them as they are.
        label_noise, label_noise_kind: part of the training images of each class, after that cut,
            whose labels are replaced by wrong ones, and by which: see `core.data.flip_labels`.
            Neither touches meta-validation or test images, nor those that meta_in_training adds.
        meta_size: meta-validation images, class-balanced, taken from the training part.
        meta_in_training: train on the meta-validation images too.
        folds, fold: cross-validation. The training images are dealt into so many folds, class by
            class of the labels they train with, and this training holds out the one of this number
            (from 0) and ends with its predictions for it. 0 folds hold nothing out; 1 holds out all
            and so needs meta_in_training.
        model, width: a name of `core.models.MODELS` and its base width; None is the published one.
        policy: how samples are interpolated.
        epochs, batch_size, meta_batch_size: as they say; meta_batch_size is capped by meta_size.
        optimizer, lr, momentum, weight_decay: see `core.optimisers.build_optimizer`.
        schedule: "cosine": per step, from lr to 0; "step": lr times lr_decay at each milestone;
            "constant": lr throughout.
        milestones: epochs (counted from 0) at which "step" decays.
        flip, translate: training augmentation: horizontal flip, shift by up to so many pixels.
        normalisation, padding, noise: how images become numbers, what a shift lets in, and Gaussian
            noise in training: see `core.data.Transform`.
        semi: how unlabelled images train beside few labelled ones; None: all images are labelled.
            An epoch is then one pass over the unlabelled images, batch_size counts labelled ones,
            and meta-validation images that train as well are added to these.
        analysis: what is looked at beside the errors, which changes nothing in the training.
        seed: of everything random; cells that differ in the policy alone share their initial
            weights, splits, long tail, wrong labels, order of data and augmentation.
    """

    dataset: str
    model: str
    policy: PolicyConfig
    seed: int = 0
    image_size: int | None = None
    train_size: int | None = None
    meta_size: int = 1000
    meta_in_training: bool = False
    width: int | None = None
    epochs: int = 600
    batch_size: int = 128
    meta_batch_size: int = 128
    lr: float = 0.1
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: float = _SGD_MOMENTUM
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[int, ...] = ()
    lr_decay: float = 0.1
    flip: bool = True
    translate: int = 0
    label_noise: float = 0.0
    label_noise_kind: NoiseKind = "symmetric"
    imbalance: float = 1.0
    folds: int = 0
    fold: int = 0
    normalisation: Normalisation = "standard"
    padding: Padding = "zero"
    noise: float = 0.0
    semi: SemiSupervisedConfig | None = None
    analysis: AnalysisConfig | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "meta_batch_size", "meta_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("image_size", "train_size", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be None or at least 1, got {value}")
        for name in ("momentum", "weight_decay", "translate", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"lr must be positive and finite, got {self.lr}")
        if not 0 < self.lr_decay <= 1:
            raise ValueError(f"lr_decay must lie in (0, 1], got {self.lr_decay}")
        if self.optimizer not in ("sgd", "adam", "adamw"):
            raise ValueError(f"optimizer must be sgd, adam or adamw, got {self.optimizer!r}")
        if self.optimizer != "sgd" and self.momentum != _SGD_MOMENTUM:
            raise ValueError(
                f"optimizer {self.optimizer} has no use for momentum={self.momentum}; leave it out"
            )
        if self.schedule not in ("cosine", "step", "constant"):
            raise ValueError(f"schedule must be cosine, step or constant, got {self.schedule!r}")
        if self.normalisation not in NORMALISATIONS:
            raise ValueError(
                f"normalisation must be {', '.join(NORMALISATIONS)}; got {self.normalisation!r}"
            )
        if self.padding not in PADDINGS:
            raise ValueError(f"padding must be {' or '.join(PADDINGS)}, got {self.padding!r}")
        if self.padding != "zero" and self.translate == 0:
            raise ValueError(
                f"padding={self.padding!r} has no use without translate; give translate, or leave "
                "it out"
            )
        if not 0 <= self.noise < float("inf"):
            raise ValueError(f"noise must be finite and at least 0, got {self.noise}")
        if not 0 <= self.label_noise <= 1:
            raise ValueError(f"label_noise must lie in [0, 1], got {self.label_noise}")
        if self.label_noise_kind not in NOISE_KINDS:
            raise ValueError(
                f"label_noise_kind must be {' or '.join(NOISE_KINDS)}, "
                f"got {self.label_noise_kind!r}"
            )
        if self.label_noise == 0 and self.label_noise_kind != "symmetric":
            raise ValueError(
                f"label_noise_kind={self.label_noise_kind!r} has no use without label_noise; give "
                "label_noise, or leave it out"
            )
        if not 1 <= self.imbalance < float("inf"):
            raise ValueError(f"imbalance must be finite and at least 1, got {self.imbalance}")
        if self.folds < 0:
            raise ValueError(f"folds must be at least 0, got {self.folds}")
        if not 0 <= self.fold < max(1, self.folds):
            raise ValueError(f"fold must lie in [0, {max(1, self.folds)}), got {self.fold}")
        if self.folds == 1 and not self.meta_in_training:
            raise ValueError(
                "folds=1 holds out every training image; give 2 or more, or meta_in_training"
            )
        curvature = self.analysis is not None and self.analysis.curvature_pairs
        if curvature and not self.model.endswith("_smooth"):
            raise ValueError(
                f"curvature_pairs needs a smooth network, and the gradient of {self.model} jumps; "
                "choose cnn_smooth or digits_cnn_smooth"
            )
        if self.semi is not None:
            self._check_semi(self.semi)

    def _check_semi(self, semi: SemiSupervisedConfig) -> None:
        for name in ("label_noise", "imbalance", "folds"):
            value = getattr(self, name)
            if value != type(self).__dataclass_fields__[name].default:
                raise ValueError(
                    f"a semi-supervised training has no use for {name}={value!r}; leave it out"
                )
        if self.policy.kind in _DISCRIMINATOR:
            raise ValueError(
                f"policy {self.policy.kind} mixes half of a labelled batch within itself, and a "
                "semi-supervised training cannot interpolate by it"
            )
        if self.analysis is not None:
            raise ValueError("a semi-supervised training is not analysed; leave analysis out")
        if semi.kind not in MIXING_KINDS and self.policy.kind != "none":
            raise ValueError(
                f"{semi.kind} mixes no samples and has no use for the policy {self.policy.kind}; "
                f"{' and '.join(MIXING_KINDS)} do"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        policy = asdict(self.policy)
        if self.policy.quantiles is not None:
            policy["quantiles"] = list(self.policy.quantiles)
        told = {**asdict(self), "policy": policy, "milestones": list(self.milestones)}
        if self.analysis is not None:
            told["analysis"]["pair_epochs"] = list(self.analysis.pair_epochs)
        return told

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingConfig:
        """The inverse of `to_dict`.

        Raises:
            ValueError: a field is unknown or missing.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise ValueError(
                f"unknown training settings {unknown}; this version knows {sorted(known)}"
            )
        values = dict(data)
        try:
            policy = dict(values.pop("policy"))
            if policy.get("reading") is not None:
                policy["reading"] = Reading(**policy["reading"])
            if policy.get("quantiles") is not None:
                policy["quantiles"] = tuple(policy["quantiles"])
            values["policy"] = PolicyConfig(**policy)
            values["milestones"] = tuple(values.get("milestones", ()))
            if values.get("semi") is not None:
                values["semi"] = SemiSupervisedConfig(**values["semi"])
            if values.get("analysis") is not None:
                analysis = dict(values["analysis"])
                analysis["pair_epochs"] = tuple(analysis.get("pair_epochs", ()))
                values["analysis"] = AnalysisConfig(**analysis)
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ValueError(f"training settings cannot be read: {error}") from error
