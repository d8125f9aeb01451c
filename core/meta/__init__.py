"""This package is the meta stage: the hypergradient of λ by several engines, and how λ moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazily

if TYPE_CHECKING:
    from core.meta.engines import ENGINES, FIRST_ORDER
    from core.meta.engines.compiled import CompileFallback
    from core.meta.examination import EngineResult, Examination, Finding, examine
    from core.meta.gradient import Engine, hypergradient, meta_gradient
    from core.meta.inner_step import LearningRate, current_rates
    from core.meta.problem import MetaGradient, MetaProblem, Validation
    from core.meta.reading import DEFAULT, PAPER, READINGS, Reading
    from core.meta.validation_gradient import ValidationGradient

__all__ = [
    "DEFAULT",
    "ENGINES",
    "FIRST_ORDER",
    "PAPER",
    "READINGS",
    "CompileFallback",
    "Engine",
    "EngineResult",
    "Examination",
    "Finding",
    "LearningRate",
    "MetaGradient",
    "MetaProblem",
    "Reading",
    "Validation",
    "ValidationGradient",
    "current_rates",
    "examine",
    "hypergradient",
    "meta_gradient",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__)
