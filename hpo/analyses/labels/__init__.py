"""Wrong labels: which are looked at first, and how many of these are wrong."""
