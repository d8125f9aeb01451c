"""Error against cost: what a search has found after so much training."""

from hpo.analyses.anytime.constants import constants_tried
from hpo.analyses.anytime.grid import grid_contrast
from hpo.analyses.anytime.report import write_anytime_report

__all__ = ["constants_tried", "grid_contrast", "write_anytime_report"]
