"""What a training says of its policy: a small frozen dataclass that turns into plain JSON.

A policy of one's own is one file: the policy, and beside it a `PolicyConfig` with `register_policy`
above. Everything else (cells and their ids, controls, costs, tables, figures) asks the
configuration.

Examples:
    >>> from dataclasses import dataclass
    >>> from typing import ClassVar
    >>> from core.policies import Fixed, PolicyConfig, register_policy
    >>> @register_policy
    ... @dataclass(frozen=True)
    ... class HalfConfig(PolicyConfig):
    ...     kinds: ClassVar = {"half": {}}
    ...     def build(self, network=None):
    ...         return Fixed(0.5)
    >>> HalfConfig().kind, HalfConfig().cost
    ('half', 1.0)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from core.policies.plain_settings import check_numbers

if TYPE_CHECKING:
    from typing_extensions import Self

    from core.models import ImageClassifier
    from core.policies.protocol import Policy

META_STAGE_COST = 3.5
"""What a meta stage costs beside its step, roughly, in units of a plain step."""

_STORED: Mapping[str, Any] = {
    "alpha": None,
    "per_sample": False,
    "lam": None,
    "reading": None,
    "last_blocks": None,
    "refresh_every": 1,
    "every": 1,
    "quantiles": None,
}
"""What every stored policy says, and how it says that it has no use for it."""


@dataclass(frozen=True)
class PolicyConfig(ABC):
    """Which policy a training takes, and all that others ask about it.

    Attributes:
        kinds: the names under which it is stored, each with the fields that the name stands for.
        learns: whether it has a meta stage, which reads meta-validation images.
        needs_meta_labels: whether its λ rest on the labels of these images, now or earlier.
        mixes_whole_batch: whether it gives every sample of a batch its λ, as semi-supervised
            methods need it.
        weights_samples: whether it gives samples weights in the loss, and mixes nothing.
        placebo_setting: what its placebo does otherwise, in a few words.

    Examples:
        >>> import core
        >>> isinstance(core.NoMix(), core.policies.PolicyConfig)
        True
        >>> core.Beta(alpha=0.5).to_dict()["alpha"]
        0.5
    """

    kinds: ClassVar[Mapping[str, Mapping[str, Any]]]
    learns: ClassVar[bool] = False
    needs_meta_labels: ClassVar[bool] = False
    mixes_whole_batch: ClassVar[bool] = True
    weights_samples: ClassVar[bool] = False
    placebo_setting: ClassVar[str] = "hypergradients permuted"

    @abstractmethod
    def build(self, network: Callable[[], ImageClassifier] | None = None) -> Policy:
        """Returns the policy itself, which belongs to one training.

        Args:
            network: makes a network like the one to train, with weights of its own. A policy that
                has networks of its own needs it.

        Raises:
            ValueError: `network` is needed and missing.
        """

    @property
    def blends_inputs(self) -> bool:
        """Whether it mixes whole inputs, rather than parts of them."""
        return True

    @property
    def follows_training(self) -> bool:
        """Whether it repeats the steps of the training beside it, as passes over whole batches."""
        return False

    @property
    def kind(self) -> str:
        """Returns the name under which it is stored."""
        return next(
            name
            for name, flags in self.kinds.items()
            if all(getattr(self, field) == value for field, value in flags.items())
        )

    @property
    def cost(self) -> float:
        """Returns what an epoch costs, roughly, in units of an epoch without a policy."""
        return self.cost_with(META_STAGE_COST)

    def cost_with(self, meta_stage: float) -> float:
        """Returns the cost of an epoch where a meta stage costs `meta_stage` plain steps."""
        return 1.0

    def placebo(self) -> PolicyConfig:
        """Returns the control in which no sample gets what was learned for it.

        Raises:
            ValueError: it has no hypergradients that could be permuted.
        """
        raise ValueError(f"policy {self.kind} has no placebo: it has no hypergradients to permute")

    def frozen(self, quantiles: tuple[float, ...]) -> PolicyConfig:
        """Returns the control that draws λ from the distribution that learning ended with.

        Args:
            quantiles: of that distribution; see `Frozen`.

        Raises:
            ValueError: it learns no distribution of λ.
        """
        raise ValueError(f"policy {self.kind} learns no λ that could be frozen")

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON types; `policy_from_dict` is the inverse."""
        values = {name: _plain(value) for name, value in asdict(self).items()}
        stored = {"kind": self.kind, **_STORED, **values}
        return {name: v for name, v in stored.items() if name not in self.kinds[self.kind]}

    def identity(self) -> dict[str, Any]:
        """Returns the part of `to_dict` that tells it from other policies.

        Settings at their defaults are left out, so that a setting which a later version adds leaves
        the identity of stored trainings as it is. A reading is in whole: its defaults are meant to
        move with the evidence.
        """
        defaults = {f.name: _plain(f.default) for f in fields(self)} | dict(_STORED)
        stored = self.to_dict()
        return {n: v for n, v in stored.items() if n not in defaults or v != defaults[n]}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> PolicyConfig:
        """Returns the configuration with fields as JSON has them. Override it for nested ones."""
        return cls(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()})


class MetaConfig(PolicyConfig):
    """What policies with a meta stage have in common, each of which declares these fields.

    Attributes:
        permute: the control.
        last_blocks: the hypergradient goes through the last so many blocks alone; None: all.
    """

    permute: bool
    last_blocks: int | None
    learns = True
    needs_meta_labels = True

    def __post_init__(self) -> None:
        check_numbers(self, "be None or at least 1", "last_blocks")

    def placebo(self) -> Self:
        if self.permute:
            raise ValueError(f"policy {self.kind} has no placebo: it is one")
        return replace(self, permute=True)  # type: ignore[call-arg]


Config = TypeVar("Config", bound=type[PolicyConfig])

_REGISTERED: dict[str, type[PolicyConfig]] = {}


def register_policy(config: Config) -> Config:
    """Makes stored trainings with this configuration readable; a class decorator.

    Raises:
        ValueError: another configuration is stored under one of its kinds.

    Examples:
        >>> import core
        >>> config = core.policies.register_policy(core.policies.LearnedConfig)  # known already
        >>> set(config.kinds) <= set(core.policies.policy_kinds())
        True
    """
    if not isinstance(getattr(config, "kinds", None), Mapping):
        raise ValueError(
            f"{config.__name__} has no `kinds`: a ClassVar of the names it is stored under, as "
            f'{{"{config.__name__.lower()}": {{}}}}'
        )
    for kind in config.kinds:
        other = _REGISTERED.setdefault(kind, config)
        if (other.__module__, other.__qualname__) != (config.__module__, config.__qualname__):
            raise ValueError(
                f"policy kind {kind!r} of {config.__name__} is taken by {other.__name__}; choose "
                "another name"
            )
        _REGISTERED[kind] = config  # a module that is loaded again replaces its own
    return config


def policy_kinds() -> tuple[str, ...]:
    """Returns the names under which policies are stored.

    Examples:
        >>> import core
        >>> "learned-beta" in core.policies.policy_kinds()
        True
    """
    return tuple(_REGISTERED)


def policy_from_dict(data: Mapping[str, Any]) -> PolicyConfig:
    """Reads what `PolicyConfig.to_dict` wrote.

    Raises:
        KeyError, TypeError: the kind or a needed field is missing, or a field is unknown.
        ValueError: the kind is unknown, a value is out of range, or the policy has no use for it.

    Examples:
        >>> import core
        >>> core.policies.policy_from_dict(core.Beta(alpha=0.5).to_dict()) == core.Beta(alpha=0.5)
        True
    """
    kind = data["kind"]
    if kind not in _REGISTERED:
        raise ValueError(f"policy kind must be one of {', '.join(_REGISTERED)}; got {kind!r}")
    config = _REGISTERED[kind]
    flags = config.kinds[kind]
    usable = {field.name for field in fields(config)} - flags.keys()
    values = {}
    for name, value in data.items():
        if name in flags:
            if value not in (flags[name], _STORED.get(name, flags[name])):
                raise ValueError(
                    f"policy {kind} has {name}={flags[name]!r}, got {value!r}; leave it out, or "
                    "name another kind"
                )
        elif name in usable or name not in (*_STORED, "kind"):
            values[name] = value
        elif name != "kind" and value != _STORED[name]:
            raise ValueError(f"policy {kind} has no use for {name}={value!r}; leave it out")
    return config.from_values({**values, **flags})


def _plain(value: Any) -> Any:
    return [_plain(part) for part in value] if isinstance(value, tuple) else value
