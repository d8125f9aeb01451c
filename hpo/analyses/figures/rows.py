"""Rows that several figures have, under the keys that they have in Table II.

With the same settings they are the same cells: what one study has trained below an output folder,
the next one takes.
"""

from __future__ import annotations

from core.meta.reading import DEFAULT, PAPER
from core.policies import Beta, LearnedConfig, NoMix
from hpo.study.rows import Row, StudyRow

NONE = StudyRow(Row("none", "No MixUp", "none", "none"), NoMix())

MIXUP = StudyRow(Row("beta-1", "MixUp (α = 1)", "alpha=1", "beta"), Beta(alpha=1.0))

METAMIXUP = StudyRow(
    Row("metamixup", "MetaMixUp (default)", "reading=default", "learned"),
    LearnedConfig(reading=DEFAULT),
)

METAMIXUP_PAPER = StudyRow(
    Row("metamixup-paper", "MetaMixUp (paper)", "reading=paper", "learned"),
    LearnedConfig(reading=PAPER),
)
