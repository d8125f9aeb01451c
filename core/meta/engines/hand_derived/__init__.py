"""This package holds double backward formulas of our own, faster than those of autograd."""

from core.meta.engines.hand_derived.substitution import HandDerived

__all__ = ["HandDerived"]
