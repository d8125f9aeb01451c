"""Measurements on networks, trained or in training. They train nothing."""

from core.analysis.config import AnalysisConfig
from core.analysis.known import Known, known_networks
from core.analysis.observer import Findings, Observer
from core.analysis.proposition1 import OUTPUTS

__all__ = ["OUTPUTS", "AnalysisConfig", "Findings", "Known", "Observer", "known_networks"]
