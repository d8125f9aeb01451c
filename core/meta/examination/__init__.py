"""This package examines, in one dry step, what learning λ would do with a user's model."""

from core.meta.examination.examine import examine
from core.meta.examination.report import EngineResult, Examination, Finding

__all__ = ["EngineResult", "Examination", "Finding", "examine"]
