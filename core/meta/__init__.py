"""The meta stage: the hypergradient of λ, by several engines, and how it moves λ."""
