"""This package trains on unlabelled images beside few labelled ones.

One contract for all: a `SemiSupervisedMethod` takes a step on a `SemiBatch`. In a loop of your own:

>>> import torch
>>> from core import Learned
>>> from core.semi_supervised import SemiBatch, SemiSupervisedConfig, build_method
>>> model = torch.nn.Linear(4, 3)
>>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
>>> apl = SemiSupervisedConfig("pseudo-label", labelled=8, threshold_step=0.05)
>>> method = build_method(apl, model, Learned())  # MetaMixUp + APL, Algorithm 2
>>> labelled = torch.randn(8, 4), torch.randint(3, (8,))
>>> unlabelled, val = torch.randn(16, 4), (torch.randn(6, 4), torch.randint(3, (6,)))
>>> batch = SemiBatch(labelled, (unlabelled,), torch.arange(24), val, epoch=0, progress=0.0)
>>> step = method.step(model, optimizer, batch, generator=torch.Generator().manual_seed(0))
>>> step.pseudo_labels.shape
torch.Size([16])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazily

if TYPE_CHECKING:
    from core.semi_supervised.build import build_method
    from core.semi_supervised.config import SEMI_KINDS, SemiSupervisedConfig
    from core.semi_supervised.consistency import MeanTeacher, PiModel
    from core.semi_supervised.method import SemiBatch, SemiStep, SemiSupervisedMethod
    from core.semi_supervised.mixmatch import MixMatch
    from core.semi_supervised.pseudo_label import PseudoLabel
    from core.semi_supervised.supervised import SupervisedOnly
    from core.semi_supervised.threshold import threshold_at
    from core.semi_supervised.vat import VAT

__all__ = [
    "SEMI_KINDS",
    "VAT",
    "MeanTeacher",
    "MixMatch",
    "PiModel",
    "PseudoLabel",
    "SemiBatch",
    "SemiStep",
    "SemiSupervisedConfig",
    "SemiSupervisedMethod",
    "SupervisedOnly",
    "build_method",
    "threshold_at",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__)
