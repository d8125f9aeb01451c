"""What to train next: searches over settings, and strategies under a budget."""
