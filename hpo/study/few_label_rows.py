"""The rows of a semi-supervised study, with the settings that a preset gives each method."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from core.data import Source
from core.semi_supervised.config import SemiSupervisedConfig
from core.training.config import TrainingConfig
from hpo.study import few_label_presets
from hpo.study.plan import SourceKey, source_key
from hpo.study.rows import StudyRow


def with_presets(
    rows: Sequence[StudyRow],
    base: Mapping[str, TrainingConfig],
    sources: Mapping[SourceKey, Source],
    preset: str,
    overridden: Collection[str],
) -> list[StudyRow]:
    """The rows with `StudyRow.by_dataset` and the paper's numbers for these data sets and labels.

    Rows without `StudyRow.semi` stay as they are. A control and a row that trains on more images
    than the paper's have no number of the paper.

    Args:
        rows: of the study.
        base: the training that all rows share, by data set.
        sources: their data.
        preset: one of `hpo.study.few_label_presets.PRESETS`.
        overridden: settings that the command line gave: they go before those of a method.
    """
    found = []
    for row in rows:
        if row.semi is None:
            found.append(row)
            continue
        own = {
            dataset: _settings(row, training, sources[source_key(training)], preset, overridden)
            for dataset, training in base.items()
        }
        paper = {
            dataset: error
            for (dataset, labels), error in row.semi.paper_errors.items()
            if dataset in base and own[dataset]["semi"].labelled == labels
        }
        if row.row.control_of is not None or row.meta_in_training:
            paper = {}
        found.append(replace(row, row=replace(row.row, paper_error=paper), by_dataset=own))
    return found


def _settings(
    row: StudyRow,
    training: TrainingConfig,
    source: Source,
    preset: str,
    overridden: Collection[str],
) -> dict[str, Any]:
    assert row.semi is not None
    assert training.semi is not None
    values = source.in_channels * source.image_size**2
    found = few_label_presets.method(row.semi.method, training, preset, values)
    semi = SemiSupervisedConfig(
        labelled=training.semi.labelled,
        unlabelled_batch=training.semi.unlabelled_batch,
        **{**found.semi, **row.semi.own},
    )
    own = {name: value for name, value in found.training.items() if name not in overridden}
    return {**own, "semi": semi}
