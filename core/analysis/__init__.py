"""Measurements on networks, trained or in training. They train nothing."""
