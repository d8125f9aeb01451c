"""This module filters the training images of a row by what other rows predict for their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from core.lazy import torch
from hpo.cells.record import CellRecord

if TYPE_CHECKING:
    from core.data import Source
    from core.training.prepared_data import TrainingLabels


def require_cleanlab() -> None:
    """Raises ImportError, saying how to install it, where cleanlab is missing."""
    try:
        import cleanlab.filter
        import cleanlab.rank  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "cleanlab is not installed, which this study compares with; "
            "pip install 'metamixup-hpo[label-errors]', or name other rows with --rows"
        ) from error


def out_of_sample(
    records: Sequence[CellRecord], source: Source
) -> tuple[TrainingLabels, np.ndarray] | None:
    """Joins what trainings of one seed predicted for the folds that they held out.

    Args:
        records: of all folds, each finished.
        source: their data.

    Returns:
        Labels of the N images of `Splits.train`, and the probabilities of their classes, float64
        [N, C], whose sum may be off by rounding; None if the folds are not all N.
    """
    from core.training.prepared_data import draw_labels

    training = records[0].cell.training
    whole = draw_labels(replace(training, folds=0, fold=0, meta_in_training=False), source)
    if any(record.trained.probabilities is None for record in records):
        return None
    held_out = torch.cat([draw_labels(r.cell.training, source).held_out for r in records])
    if held_out.sort().values.tolist() != whole.indices.tolist():
        return None
    predicted = np.concatenate([np.asarray(r.trained.probabilities) for r in records])
    return whole, predicted[held_out.argsort().numpy()]


def suspected(
    records: Sequence[CellRecord], sources: Mapping[tuple[str, int | None], Source]
) -> str:
    """Returns `TrainingConfig.left_out` of the images whose labels cleanlab finds to be wrong.

    That is confident learning (Northcutt et al. 2021) in cleanlab's default setting: of each class
    those are left out whose given label is least probable, as many as it estimates to be wrong.

    Args:
        records: of all folds of one data set and seed, each finished.
        sources: the data by name and image size.

    Raises:
        ImportError: cleanlab is not installed.
        ValueError: the folds are not all training images, or cleanlab refuses them.
    """
    require_cleanlab()
    from cleanlab.filter import find_label_issues

    from core.data.masks import pack_mask

    training = records[0].cell.training
    joined = out_of_sample(records, sources[training.dataset, training.image_size])
    if joined is None:
        raise ValueError("the folds do not predict every training image once; name all of them")
    labels, probabilities = joined
    whole = probabilities / probabilities.sum(axis=1, keepdims=True)
    issues = find_label_issues(labels.given.numpy(), whole, n_jobs=1)
    return pack_mask(torch.from_numpy(np.asarray(issues, dtype=bool)))
