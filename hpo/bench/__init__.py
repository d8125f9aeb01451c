"""What the project measures of itself; nothing stands on it."""
