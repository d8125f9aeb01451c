"""The rows of a semi-supervised study, with the settings that a preset gives each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from core.semi_supervised.config import NEEDED, SemiKind, SemiSupervisedConfig
from core.training.config import TrainingConfig
from hpo.study import few_label_presets
from hpo.study.plan import SourceKey, source_key
from hpo.study.rows import StudyRow

if TYPE_CHECKING:
    from core.data import Source

_SEMI = "semi."
"""The names of settings of few labels begin with it on the command line."""


def semi_settings(settings: Mapping[str, Any], kind: SemiKind) -> dict[str, Any]:
    """Returns those settings of a command line, "semi.threshold", that a kind has a use for."""
    return {
        field: value
        for name, value in settings.items()
        if name.startswith(_SEMI) and (field := name.removeprefix(_SEMI)) in NEEDED[kind]
    }


def with_presets(
    rows: Sequence[StudyRow],
    base: Mapping[str, TrainingConfig],
    sources: Mapping[SourceKey, Source],
    preset: str,
    overridden: Mapping[str, Any],
) -> list[StudyRow]:
    """Returns the rows with `StudyRow.by_dataset` and the paper's numbers for these labels.

    Rows without `StudyRow.semi` stay as they are. A control, a row that trains on more images than
    the paper's, and one whose settings are searched have no number of the paper.

    Args:
        rows: of the study.
        base: the training that all rows share, by data set.
        sources: their data.
        preset: one of `hpo.study.few_label_presets.PRESETS`.
        overridden: settings that the command line gave: they go before those of a method.

    Raises:
        ValueError: no row's method has a use for a setting that the command line gave.
    """
    kinds = {few_label_presets.METHODS[row.semi.method] for row in rows if row.semi is not None}
    for name, value in overridden.items():
        if name.startswith(_SEMI) and not any(semi_settings({name: value}, kind) for kind in kinds):
            raise ValueError(
                f"--{name.replace('_', '-')} {value}: none of these rows has a use for it; choose "
                "others with --rows, or leave it out"
            )
    complete = []
    for row in rows:
        if row.semi is None:
            complete.append(row)
            continue
        settings = {
            dataset: _settings(row, training, sources[source_key(training)], preset, overridden)
            for dataset, training in base.items()
        }
        paper = {
            dataset: error
            for (dataset, labels), error in row.semi.paper_errors.items()
            if dataset in base and settings[dataset]["semi"].labelled == labels
        }
        searched = row.searched is not None
        if searched or row.row.control_of is not None or row.meta_in_training:
            paper = {}
        complete.append(replace(row, row=replace(row.row, paper_error=paper), by_dataset=settings))
    return complete


def _settings(
    row: StudyRow,
    training: TrainingConfig,
    source: Source,
    preset: str,
    overridden: Mapping[str, Any],
) -> dict[str, Any]:
    assert row.semi is not None
    assert training.semi is not None
    values = source.in_channels * source.image_size**2
    method = few_label_presets.method(row.semi.method, training, preset, values)
    shared = {
        "labelled": training.semi.labelled,
        "unlabelled_batch": training.semi.unlabelled_batch,
    }
    given = semi_settings(overridden, method.semi["kind"])
    semi = SemiSupervisedConfig(**{**shared, **method.semi, **given, **row.semi.own})
    settings = {name: value for name, value in method.training.items() if name not in overridden}
    return {**settings, "semi": semi}
