"""Error against cost: what a search has found after so much training."""
