"""What a study trains, and how far it is."""

from hpo.study.plan import Plan, source_key
from hpo.study.rows import (
    SEARCHED_ALPHA,
    FrozenFrom,
    Recipe,
    Row,
    Searched,
    SemiRow,
    StudyRow,
    controls,
    with_meta_images,
)

__all__ = [
    "SEARCHED_ALPHA",
    "FrozenFrom",
    "Plan",
    "Recipe",
    "Row",
    "Searched",
    "SemiRow",
    "StudyRow",
    "controls",
    "source_key",
    "with_meta_images",
]
