"""A data set whose images say which they are, for tests of wrong labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from core.data import Source, source_from_arrays
from core.policies import NoMix
from core.training.config import TrainingConfig
from core.training.prepared_data import prepare_data
from hpo.cells.record import CellRecord
from hpo.report.outcome import Outcome
from hpo.search.protocol import SearchSettings
from hpo.study.plan import Plan
from hpo.study.rows import StudyRow

BASE = TrainingConfig("numbered", "cnn", NoMix(), train_size=30, meta_size=12, label_noise=0.4)
WRONG = 12
"""Wrong labels of the 30."""

NAMES = ("zero", "one", "two")


def numbered() -> Source:
    """60 training images of 3 classes in turn; all pixels of an image are its number."""
    images = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None], (60, 8, 8))
    labels = np.arange(60) % 3
    return source_from_arrays("numbered", images, labels, images[:6], labels[:6], NAMES)


def read(config: TrainingConfig, part: str = "train") -> dict[int, int]:
    """Numbers and given labels of the images that a training reads, in its order."""
    images = getattr(prepare_data(config, numbered(), "cpu"), part)
    pixels, labels = next(iter(images.batches([torch.arange(len(images))])))
    return dict(zip(pixels[:, 0, 0, 0].tolist(), labels.tolist(), strict=True))


def numbered_outcome(
    output: Path,
    records: Sequence[CellRecord],
    rows: Sequence[StudyRow],
    base: TrainingConfig = BASE,
    source: Source | None = None,
) -> Outcome:
    """Returns what a study of these rows on the data set, or on another one, ended with."""
    plan = Plan("study", rows, [base.dataset], [0, 1, 2], {base.dataset: base}, SearchSettings(3))
    sources = {(base.dataset, base.image_size): source or numbered()}
    return Outcome(plan, records, sources, pd.DataFrame(), output)
