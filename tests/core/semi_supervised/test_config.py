from __future__ import annotations

import re
from dataclasses import replace

import pytest

from core.semi_supervised.config import SEMI_KINDS, SemiSupervisedConfig

GOOD = {
    kind: SemiSupervisedConfig(
        kind, labelled=20, **({"ema": 0.9} if kind in ("mean-teacher", "mixmatch") else {})
    )
    for kind in SEMI_KINDS
}


@pytest.mark.parametrize(
    ("kind", "off", "message"),
    [
        ("supervised", {"labelled": 0}, "labelled must be at least 1, got 0"),
        ("supervised", {"weight": 2.0}, "supervised has no use for weight=2.0"),
        ("pi-model", {"weight": -1.0}, "weight must be finite and at least 0, got -1.0"),
        ("pi-model", {"weight": float("nan")}, "weight must be finite and at least 0, got nan"),
        ("pi-model", {"ema": 0.9}, "pi-model has no use for ema=0.9"),
        ("pi-model", {"ramp": "cubic", "ramp_share": 0.5}, "ramp must be one of"),
        ("pi-model", {"ramp": "linear"}, "ramp_share must lie in (0, 1] with a ramp"),
        ("pi-model", {"ramp_share": 0.5}, "ramp_share must lie in (0, 1] with a ramp"),
        ("mean-teacher", {"ema": None}, "mean-teacher needs ema in [0, 1), got None"),
        ("mean-teacher", {"ema": 1.0}, "mean-teacher needs ema in [0, 1), got 1.0"),
        ("vat", {"epsilon": 0.0}, "epsilon must be positive and finite, got 0.0"),
        ("vat", {"xi": float("inf")}, "xi must be finite and at least 0, got inf"),
        ("vat", {"power_iterations": 0}, "power_iterations must be at least 1, got 0"),
        ("pseudo-label", {"threshold": 1.5}, "threshold must lie in [0, 1], got 1.5"),
        ("pseudo-label", {"threshold_period": 0}, "threshold_period must be at least 1, got 0"),
        ("pseudo-label", {"threshold_formula": "sane"}, "threshold_formula must be one of"),
        ("mixmatch", {"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
        ("mixmatch", {"augmentations": 0}, "augmentations must be at least 1, got 0"),
        ("mixmatch", {"unlabelled_batch": 0}, "unlabelled_batch must be None or at least 1, got 0"),
    ],
)
def test_what_is_off_is_named(kind: str, off: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(GOOD[kind], **off)  # type: ignore[index, arg-type]


def test_an_unknown_kind() -> None:
    with pytest.raises(ValueError, match=r"semi kind must be one of supervised, .* got 'noisy'"):
        SemiSupervisedConfig("noisy", labelled=10)  # type: ignore[arg-type]
