"""This package holds double backward formulas of our own, faster than those of autograd."""
