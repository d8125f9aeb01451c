"""This module builds a method from its settings."""

from __future__ import annotations

from torch import nn

from core.policies.protocol import Policy
from core.semi_supervised.config import SemiSupervisedConfig
from core.semi_supervised.consistency import MeanTeacher, PiModel
from core.semi_supervised.method import SemiSupervisedMethod
from core.semi_supervised.mixmatch import MixMatch
from core.semi_supervised.pseudo_label import PseudoLabel
from core.semi_supervised.supervised import SupervisedOnly
from core.semi_supervised.vat import VAT


def build_method(
    config: SemiSupervisedConfig, model: nn.Module, policy: Policy
) -> SemiSupervisedMethod:
    """Returns the method, at the beginning of a training.

    Args:
        config: which one.
        model: as it starts; methods that keep a moving average begin with a copy of it.
        policy: how the methods that mix samples do.

    Examples:
        >>> import torch, core
        >>> from core.semi_supervised import SemiSupervisedConfig, build_method
        >>> config = SemiSupervisedConfig("pi-model", labelled=40)
        >>> type(build_method(config, torch.nn.Linear(4, 3), core.NoMix())).__name__
        'PiModel'
    """
    if config.kind == "supervised":
        return SupervisedOnly()
    if config.kind == "pseudo-label":
        return PseudoLabel(config, policy)
    if config.kind == "pi-model":
        return PiModel(config)
    if config.kind == "mean-teacher":
        return MeanTeacher(config, model)
    if config.kind == "vat":
        return VAT(config)
    if config.kind == "mixmatch":
        return MixMatch(config, model, policy)
    raise ValueError(f"no method of kind {config.kind!r}")
