"""The full configuration of one training, as frozen dataclasses that turn into plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral
from typing import Any, Literal

from core.analysis.config import AnalysisConfig
from core.data.names import (
    NOISE_KINDS,
    NORMALISATIONS,
    PADDINGS,
    NoiseKind,
    Normalisation,
    Padding,
)
from core.mixing.remedies import ClassWeights
from core.policies import PolicyConfig, policy_from_dict
from core.policies.plain_settings import (
    check_choices,
    check_kinds,
    check_numbers,
    with_python_numbers,
)
from core.semi_supervised.config import SemiSupervisedConfig
from core.training.few_label_checks import check_semi
from core.training.remedies import LossName, Sampling, check_remedies
from core.user_model.precision import PRECISIONS, PrecisionName

MemoryFormat = Literal["contiguous", "channels_last"]
MEMORY_FORMATS: tuple[MemoryFormat, ...] = ("contiguous", "channels_last")

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("cosine", "step", "constant")

_SGD_MOMENTUM = 0.9
LATER: Mapping[str, str] = {"stored": "where it is not the default"}
"""Metadata of a setting that stored trainings of earlier versions lack, so that theirs and today's
are alike."""


@dataclass(frozen=True)
class TrainingConfig:
    """One training: data, model, policy, optimization, seed.

    What cannot change the result on a given kind of device (where the data lie, which device, how
    often a checkpoint is written) is not part of it.

    Attributes:
        dataset: a name of `core.data.DATASETS`, or `folder:PATH`.
        image_size: height and width after area averaging; None keeps the data's own.
        train_size: training images, class-balanced; None takes all that meta-validation leaves.
        dedup: neither train on, nor hold out for meta-validation, what equals a test item.
        imbalance: largest over smallest class of the training images, which are cut to a long
            tail: see `core.data.long_tail`. 1 leaves them as they are.
        label_noise, label_noise_kind: part of the training images of each class, after that cut,
            whose labels are replaced by wrong ones, and by which: see `core.data.flip_labels`.
            Neither touches meta-validation or test images, nor those that meta_in_training adds.
        labels: a file with a label for each training image of the data set, in its order, which
            the training images then carry instead; see `core.data.read_labels`. PATH, or
            PATH#FINGERPRINT, which refuses a file that has changed.
        meta_noise: meta-validation labels are as noisy as those of training: with label_noise by
            draws of their own, with labels those of the file.
        meta_size: meta-validation images, class-balanced, taken from the training part.
        checked: a file with 1 for each training image of the data set whose label somebody has
            checked and 0 for any other, in its order: the meta-validation images are taken from
            these alone, with the data set's labels (with meta_noise those of `labels`), and those
            that are not taken train. None: from all. Read as `labels` is.
        meta_in_training: train on the meta-validation images too.
        equal_steps: an epoch then draws as many of all these images as it has without them, at
            random, and so takes as many steps.
        folds, fold: cross-validation. The training images are dealt into so many folds, class by
            class of the labels they train with, and this training holds out the one of this number
            (from 0) and ends with its predictions for it. 0 folds hold nothing out; 1 holds out all
            and so needs meta_in_training.
        model, width: a name of `core.models.MODELS` and its base width; None is the published one.
            Or `torchvision:NAME`, or `package.module:factory` that is called with those of
            in_channels, num_classes and image_size that its signature takes.
        weights: a file with a state dict that the model begins with, or None.
        batchnorm_momentum, batchnorm_eps: of every BatchNorm of the model: the weight of the newest
            batch in its running statistics, and what is added to the variance; None is the model's
            own, PyTorch's 0.1 and 1e-5 in those of `core.models`.
        policy: how samples are interpolated.
        stop_mixing: part of the training after whose epochs, rounded, nothing is mixed and nothing
            learned of λ, weights of samples apart; 1 mixes to the end.
        left_out: which of the training images, as they are before folds and those that
            meta_in_training adds, do not train; see `core.data.masks.pack_mask`. None: all train.
        loss, loss_strength: what training descends: "cross-entropy"; "logit-adjusted" by τ log π,
            π the class priors of the training labels; "smoothed" by ε; "gce", generalized
            cross-entropy of exponent q; "elr", early-learning regularization by λ_elr. The strength
            is τ, ε, q or λ_elr; None takes the source's. See `core.mixing.remedies`. The validation
            loss of a meta stage is cross-entropy always.
        sampling: "uniform": an epoch is a pass over the training images; "balanced": it has as many
            draws with replacement, by which every class of the training labels is equally likely.
        class_weights: of the loss: "none", "inverse" or "effective" number of training labels.
        logit_adjustment: τ of post-hoc logit adjustment (Menon et al. 2021): in validation and test
            predictions, and in the validation loss of a meta stage, τ log π is subtracted from the
            logits.
        epochs, batch_size, meta_batch_size: as they say; meta_batch_size is capped by meta_size.
        optimizer, lr, momentum, weight_decay: see `core.training.optimizers.build_optimizer`; the
            optimizer may be `package.module:factory` too, such as torch.optim:RMSprop.
        schedule: "cosine": per step, from lr to 0; "step": lr times lr_decay at each milestone;
            "constant": lr throughout; or `package.module:function` of those of step, steps, epochs
            and lr that it takes, called at each step.
        warmup_epochs: first epochs in which the rate of the schedule is multiplied by a factor that
            rises linearly to 1, a step at a time.
        milestones: epochs (counted from 0) at which "step" decays.
        augment: `package.module:name` of a callable on a batch of training items, uint8 images or
            float features, before normalisation. A transform of torchvision, named itself as
            torchvision.transforms.v2:TrivialAugmentWide or an object of such, draws for each image.
        flip, translate: training augmentation: horizontal flip, shift by up to so many pixels.
        normalisation, padding, noise: how images become numbers, what a shift lets in, and Gaussian
            noise in training: see `core.data.Transform`.
        precision: of the forward passes, those of the meta stage and of evaluation among them:
            "float32"; "bf16" by autocast; "fp16" by autocast with a `GradScaler`. Weights, losses
            and the optimizer are float32 throughout.
        memory_format: of the weights: "contiguous" or "channels_last", by which convolutions are
            faster on most processors. With either of the two at another value than its default the
            optimizer takes torch's fused kernels, whose last digits differ.
        semi: how unlabeled images train beside few labeled ones; None: all images are labeled.
            An epoch is then one pass over the unlabeled images, batch_size counts labeled ones,
            and meta-validation images that train as well are added to these.
        analysis: what is looked at beside the errors, which changes nothing in the training.
        seed: of everything random; cells that differ in the policy alone share their initial
            weights, splits, long tail, wrong labels, order of data and augmentation.

    Examples:
        >>> import core
        >>> core.training.TrainingConfig("digits", "digits_cnn", core.NoMix(), epochs=3).lr
        0.1
    """

    dataset: str
    model: str
    policy: PolicyConfig
    seed: int = 0
    stop_mixing: float = field(default=1.0, metadata=LATER)
    image_size: int | None = None
    train_size: int | None = None
    dedup: bool = field(default=False, metadata=LATER)
    meta_size: int = 1000
    meta_in_training: bool = False
    equal_steps: bool = field(default=False, metadata=LATER)
    width: int | None = None
    weights: str | None = field(default=None, metadata=LATER)
    batchnorm_momentum: float | None = field(default=None, metadata=LATER)
    batchnorm_eps: float | None = field(default=None, metadata=LATER)
    epochs: int = 600
    batch_size: int = 128
    meta_batch_size: int = 128
    lr: float = 0.1
    optimizer: str = "sgd"
    momentum: float = _SGD_MOMENTUM
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    warmup_epochs: int = field(default=0, metadata=LATER)
    milestones: tuple[int, ...] = ()
    lr_decay: float = 0.1
    flip: bool = True
    translate: int = 0
    augment: str | None = field(default=None, metadata=LATER)
    label_noise: float = 0.0
    label_noise_kind: NoiseKind = "symmetric"
    labels: str | None = field(default=None, metadata=LATER)
    meta_noise: bool = field(default=False, metadata=LATER)
    checked: str | None = field(default=None, metadata=LATER)
    left_out: str | None = field(default=None, metadata=LATER)
    loss: LossName = field(default="cross-entropy", metadata=LATER)
    loss_strength: float | None = field(default=None, metadata=LATER)
    sampling: Sampling = field(default="uniform", metadata=LATER)
    class_weights: ClassWeights = field(default="none", metadata=LATER)
    logit_adjustment: float = field(default=0.0, metadata=LATER)
    imbalance: float = 1.0
    folds: int = 0
    fold: int = 0
    normalisation: Normalisation = "standard"
    padding: Padding = "zero"
    noise: float = 0.0
    precision: PrecisionName = field(default="float32", metadata=LATER)
    memory_format: MemoryFormat = field(default="contiguous", metadata=LATER)
    semi: SemiSupervisedConfig | None = None
    analysis: AnalysisConfig | None = None

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = with_python_numbers(getattr(self, setting.name))
            object.__setattr__(self, setting.name, value)
        _check_kinds(self)
        counts = ("epochs", "batch_size", "meta_batch_size", "meta_size")
        check_numbers(self, "be at least 1", *counts)
        check_numbers(self, "be None or at least 1", "image_size", "train_size", "width")
        rates = ("momentum", "weight_decay", "warmup_epochs", "translate", "seed", "folds")
        check_numbers(self, "be at least 0", *rates)
        check_numbers(self, "be positive and finite", "lr")
        check_numbers(self, "be finite and at least 0", "noise")
        check_numbers(self, "be finite and at least 1", "imbalance")
        check_numbers(self, "lie in [0, 1]", "stop_mixing", "label_noise")
        check_numbers(self, "lie in (0, 1]", "lr_decay")
        if self.batchnorm_momentum is not None:
            check_numbers(self, "lie in (0, 1]", "batchnorm_momentum")
        if self.batchnorm_eps is not None:
            check_numbers(self, "be positive and finite", "batchnorm_eps")
        check_choices(
            self,
            normalisation=NORMALISATIONS,
            padding=PADDINGS,
            precision=PRECISIONS,
            memory_format=MEMORY_FORMATS,
            label_noise_kind=NOISE_KINDS,
        )
        if self.seed >= 2**63:
            raise ValueError(f"seed must be below 2**63, got {self.seed}")
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            value = getattr(self, name)
            if value not in known and ":" not in value:
                raise ValueError(
                    f"{name} must be {', '.join(known)} or package.module:name, got {value!r}"
                )
        if self.optimizer in ("adam", "adamw") and self.momentum != _SGD_MOMENTUM:
            raise ValueError(
                f"optimizer {self.optimizer} has no use for momentum={self.momentum}; leave it out"
            )
        if self.padding != "zero" and self.translate == 0:
            raise ValueError(
                f"padding={self.padding!r} has no use without translate; give translate, or leave "
                "it out"
            )
        if self.label_noise == 0 and self.label_noise_kind != "symmetric":
            raise ValueError(
                f"label_noise_kind={self.label_noise_kind!r} has no use without label_noise; give "
                "label_noise, or leave it out"
            )
        if not 0 <= self.fold < max(1, self.folds):
            raise ValueError(f"fold must lie in [0, {max(1, self.folds)}), got {self.fold}")
        if self.folds == 1 and not self.meta_in_training:
            raise ValueError(
                "folds=1 holds out every training image; give 2 or more, or meta_in_training"
            )
        if self.equal_steps and (not self.meta_in_training or self.folds == 1):
            raise ValueError(
                "equal_steps is for a training on the meta-validation images beside others; give "
                "meta_in_training and no folds=1, or leave it out"
            )
        if self.analysis is not None:
            self.analysis.check(self.model, self.policy)
        check_remedies(self)
        if self.semi is not None:
            check_semi(self, self.semi)

    @property
    def may_mislabel(self) -> bool:
        """Says whether training images may carry other labels than those of the data set."""
        return self.label_noise > 0 or self.labels is not None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON types; a setting of LATER only where it is not its default."""
        values = asdict(self) | {"policy": self.policy.to_dict()}
        for setting in fields(self):
            if setting.metadata == LATER and values[setting.name] == setting.default:
                del values[setting.name]
        values["milestones"] = list(self.milestones)
        if self.analysis is not None:
            values["analysis"]["pair_epochs"] = list(self.analysis.pair_epochs)
        return values

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingConfig:
        """Reads what `to_dict` wrote.

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
            values["policy"] = policy_from_dict(values["policy"])
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


def _check_kinds(config: TrainingConfig) -> None:
    """Raises ValueError where a setting is of another type than it must be."""
    check_kinds(config)
    if not isinstance(config.policy, PolicyConfig):
        raise ValueError(f"policy must be one as core.NoMix() is, got {config.policy!r}")
    for name, kind in (("semi", SemiSupervisedConfig), ("analysis", AnalysisConfig)):
        if not isinstance(getattr(config, name), (kind, type(None))):
            raise ValueError(f"{name} must be of {kind.__name__}, got {getattr(config, name)!r}")
    whole = isinstance(config.milestones, tuple)
    if not whole or not all(isinstance(epoch, Integral) for epoch in config.milestones):
        raise ValueError(f"milestones must be a tuple of epochs, got {config.milestones!r}")
