"""A preset says which models and sizes are measured, and who takes part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from core.models import MODELS
from hpo.bench.cost.bench import Case

FIT = "fit"
"""The part of the table, and what names it among the contenders."""

REPEATS = {"smoke": 3, "quick": 3, "paper": 15}
"""How many rounds the interleaved timing has."""

GROWTH = ("auto", "unroll", "finite_difference")
"""Who takes part in the curves of growth, beside plain MixUp."""

_SLOW = ("compiled", "validation_gradient_every_4", "amortised_16")
SKIPPED = {"smoke": _SLOW[:1], "quick": _SLOW}
"""Who is left out of a preset unless named: compiling takes minutes, and a mode that acts at every
k-th step is timed over k of them."""

_CNN = Case("cnn", 28, 1, 128, 100)
_RESNET = Case("preact_resnet18", 32, 3, 64, 64)
_TINY = Case("digits_cnn", 8, 1, 16, 8, train_steps=5)
_FITS = [
    Case("cnn", 14, 1, 64, 64, part=FIT),
    replace(_RESNET, width=16, part=FIT),
]
_TINY_RESNET = Case("preact_resnet18", 8, 3, 4, 4, width=4)


def cases(
    preset: str, device: str, models: Sequence[str] | None = None, *, fits: bool = True
) -> list[Case]:
    """Returns the cases of a preset, the main table's first.

    `smoke`: one tiny network, and every kind of row. `quick`: the main table and whole epochs of
    small networks. `paper`: that and the growth with batch size and depth; on CUDA the table and
    the whole epochs are of PreActResNet-18 and WRN-28-10 at batch 128 and 512.

    Args:
        preset: "smoke", "quick" or "paper".
        device: "cpu" or "cuda".
        models: only these of `core.models.MODELS`; one that the preset does not have gets a row at
            32×32×3 and batch 64.
        fits: whether whole epochs are measured too.

    Raises:
        ValueError: a model is unknown.
    """
    table = [case for case in _cases(preset, device) if fits or case.part != FIT]
    if models is None:
        return table
    for name in models:
        if name not in MODELS:
            raise ValueError(f"unknown model {name!r}; choose among {', '.join(MODELS)}")
    known = {case.model for case in table}
    added = [replace(_RESNET, model=name) for name in models if name not in known]
    return [case for case in table if case.model in models] + added


def _cases(preset: str, device: str) -> list[Case]:
    if preset == "smoke":
        growth = [*_growth("batch", _TINY, (8, 16)), *_growth("depth", _TINY_RESNET, (4,))]
        return [_TINY, *growth, replace(_TINY, part=FIT)]
    if preset == "quick":
        return [_CNN, _RESNET, *_FITS]
    sizes = (16, 32, 64, 128, 256, 512)
    table, fits, batch = [_CNN, _RESNET], _FITS, 64
    if device == "cuda":
        table, batch = _squares(_RESNET, (128, 512), ("preact_resnet18", "wrn_28_10")), 128
        fits = [replace(case, part=FIT) for case in table]
    depths = _growth("depth", _RESNET, (batch,), ("preact_resnet18", "preact_resnet34"))
    growth = [*_growth("batch", _CNN, sizes), *_growth("batch", _RESNET, sizes), *depths]
    return [*table, *growth, *fits]


def _squares(case: Case, sizes: Sequence[int], models: Sequence[str] = ()) -> list[Case]:
    """Returns the case with n = m of each size, for each model or its own."""
    return [
        replace(case, model=model, batch_size=n, meta_batch_size=n)
        for model in models or (case.model,)
        for n in sizes
    ]


def _growth(part: str, case: Case, sizes: Sequence[int], models: Sequence[str] = ()) -> list[Case]:
    return [replace(point, part=part, train_steps=0) for point in _squares(case, sizes, models)]
