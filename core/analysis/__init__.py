"""Measurements on networks, trained or in training. They train nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazily

if TYPE_CHECKING:
    from core.analysis.config import AnalysisConfig
    from core.analysis.findings import Findings
    from core.analysis.known import Known, known_networks
    from core.analysis.observer import Observer
    from core.analysis.proposition1 import OUTPUTS

__all__ = ["OUTPUTS", "AnalysisConfig", "Findings", "Known", "Observer", "known_networks"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__)
