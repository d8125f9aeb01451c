"""AdaMixUp (Guo et al., AAAI 2019): λ from a region that a network chooses for each pair."""

from core.policies.adamixup.config import AdaMixUpConfig
from core.policies.adamixup.policy import AdaMixUp

__all__ = ["AdaMixUp", "AdaMixUpConfig"]
