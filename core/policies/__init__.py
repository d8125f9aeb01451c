"""Who gets which λ: one file a policy."""
