"""AdaMixUp over training."""
