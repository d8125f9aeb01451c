"""What a study trains, and how far it is."""

from hpo.study.plan import Plan, source_key
from hpo.study.recipes import SEARCHED_ALPHA, FilteredBy, FrozenFrom, Recipe, Searched
from hpo.study.rows import Row, SemiRow, StudyRow, controls
from hpo.study.variants import with_meta_images

__all__ = [
    "SEARCHED_ALPHA",
    "FilteredBy",
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
