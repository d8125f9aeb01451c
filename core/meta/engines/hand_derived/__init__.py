"""Double backward formulas of our own, faster than those that autograd finds."""
