"""Readings of MetaMixUp compared."""
