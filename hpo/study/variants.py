"""A row varied by what its name ends with: stopped early, trained longer, on more images."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from core.policies import NoMix
from hpo.study.rows import Row, StudyRow

META_SUFFIX = "+meta"
"""It ends the key of a row that trains on the meta-validation images too."""

ENDINGS = (
    f"{META_SUFFIX} behind the name of one that is not learned trains it on the meta-validation "
    "images too, -stop-0.83 ends its mixing after that part, -x3 trains it 3 times as long"
)
"""What a name can end with, for people."""


def stopped(original: StudyRow, part: float = 0.83) -> StudyRow:
    """Returns the row without mixing after a part of the training, compared with the row itself.

    Args:
        original: the row, which mixes.
        part: of the training after which nothing is mixed, above 0 and below 1.

    Raises:
        ValueError: the part is out of range, or the row mixes nothing, is stopped already, spends a
            budget, or trains with few labels.
    """
    key = f"{original.row.key}-stop-{part:g}"
    if not 0 < part < 1:
        raise ValueError(f"row {key}: mixing stops after a part above 0 and below 1, got {part:g}")
    filtered = original.filtered_by
    if NoMix() == (original.policy if filtered is None else filtered.policy):
        raise ValueError(f"row {original.row.key} mixes nothing: no {key}")
    _require_plain(original, key)
    if "stop_mixing" in original.training:
        raise ValueError(f"row {original.row.key} stops mixing already: no {key}")
    shown = _shown(
        original.row,
        key,
        f"{original.row.label}, the last {100 * (1 - part):.3g}% unmixed",
        f"{original.row.setting}, until {part:g}",
    )
    shown = replace(shown, counterpart=original.row.key)
    return replace(original, row=shown, training={**original.training, "stop_mixing": part})


def longer(original: StudyRow, times: float) -> StudyRow:
    """Returns the row trained for so many times the epochs.

    Args:
        original: the row.
        times: above 0; the epochs are rounded.

    Raises:
        ValueError: times is 1, or not positive and finite, or the row is a longer one already,
            spends a budget, or trains with few labels.
    """
    key = f"{original.row.key}-x{times:g}"
    if not 0 < times < float("inf"):
        raise ValueError(f"row {key}: trains a positive number of times as long, got {times:g}")
    if times == 1:
        raise ValueError(f"row {key} trains as long as {original.row.key}; name that")
    _require_plain(original, key)
    if original.longer != 1.0:
        raise ValueError(f"row {original.row.key} has a length of its own: no {key}")
    shown = _shown(
        original.row,
        key,
        f"{original.row.label}, {times:g} times as long",
        f"{original.row.setting}, {times:g} x epochs",
    )
    return replace(original, row=shown, longer=times)


def with_meta_images(row: StudyRow) -> StudyRow:
    """Returns the row trained on the meta-validation images too, as a row of its own.

    It takes as many steps as the row itself: an epoch has as many images, drawn from all of them.
    (With few labels an epoch is a pass over the unlabeled ones, and so has as many anyway.)

    It is of no family that competes for the best Beta: its meta-validation error is a training
    error. A learned row then learns from images that train as well.

    Raises:
        ValueError: the row's strategy selects by those images, so they cannot train as well, or
            they train already.
    """
    key = row.row.key
    if row.strategy is not None:
        raise ValueError(f"row {key} selects by the meta-validation images: no {key}{META_SUFFIX}")
    if row.meta_in_training:
        raise ValueError(f"row {key} trains on them already: no {key}{META_SUFFIX}")
    variant = replace(
        row.row,
        key=key + META_SUFFIX,
        label=f"{row.row.label} + meta images",
        family="extra",
        paper_error={},
        control_of=None,
        counterpart=None,
        base=row.row.base or key,
    )
    settings = {"meta_in_training": True} | ({} if row.semi else {"equal_steps": True})
    return replace(row, row=variant, training={**row.training, **settings})


def varied(name: str, find: Callable[[str], Sequence[StudyRow]]) -> list[StudyRow]:
    """Returns the rows of a name: those that are found by it, or by what is before its ending.

    Args:
        name: such as "beta-4-stop-0.83" or "none+meta"; an ending may follow another.
        find: returns the rows of a name without its endings, none where there are none.

    Raises:
        ValueError: a row cannot be varied so; one that learns from the meta-validation images is
            not to train on them.
    """
    found = find(name)
    if found:
        return list(found)
    for ending, make in _VARIED.items():
        match = re.fullmatch(rf"(.+){ending}", name)
        if match is not None:
            return [make(row, *match.groups()[1:]) for row in varied(match[1], find)]
    return []


def _with_meta_images(row: StudyRow) -> StudyRow:
    policy = row.policy if row.searched is None else row.searched.policy
    if policy is not None and policy.learns:
        key = row.row.key
        raise ValueError(f"row {key} learns from the meta-validation images: no {key}{META_SUFFIX}")
    return with_meta_images(row)


_VARIED: dict[str, Callable[..., StudyRow]] = {
    re.escape(META_SUFFIX): _with_meta_images,
    r"-stop-([\d.]+)": lambda row, part: stopped(row, _number(part)),
    r"-x([\d.]+)": lambda row, times: longer(row, _number(times)),
}


def _number(written: str) -> float:
    try:
        return float(written)
    except ValueError:
        raise ValueError(f"{written!r} is no number") from None


def _require_plain(row: StudyRow, key: str) -> None:
    if row.strategy is not None:
        raise ValueError(f"row {row.row.key} spends a budget of trainings: no {key}")
    if row.semi is not None:
        raise ValueError(f"row {row.row.key} trains with few labels, not varied so: no {key}")


def _shown(row: Row, key: str, label: str, setting: str) -> Row:
    return Row(key, label, setting, "extra", architecture=row.architecture)
