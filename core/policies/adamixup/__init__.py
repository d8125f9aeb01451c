"""AdaMixUp (Guo et al., AAAI 2019): λ from a region that a network chooses for each pair."""
