from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from core.analysis.class_pairs import label_entropy, mean_by_class_pair


def test_means_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    lam = rng.random(500)
    first, second = rng.integers(0, 7, 500), rng.integers(0, 7, 500)
    first[first == 5] = 4  # a row that is empty
    actual = mean_by_class_pair(*map(torch.from_numpy, (lam, first, second)), 7)
    for a in range(7):
        for b in range(7):
            chosen = lam[(first == a) & (second == b)]
            expected = None if a == 5 else pytest.approx(chosen.mean(), abs=5.1e-5)
            assert actual[a][b] == expected


def test_entropy_is_that_of_the_mixed_labels() -> None:
    """By the rows of mixed one-hot labels themselves."""
    lam = [0.0, 0.25, 0.5, 1.0, 0.3, 0.9]
    first, second = [0, 1, 2, 0, 1, 2], [1, 2, 0, 2, 1, 0]
    entropies = []
    for weight, a, b in zip(lam, first, second, strict=True):
        label = weight * np.eye(3)[a] + (1 - weight) * np.eye(3)[b]
        entropies.append(-sum(p * math.log(p) for p in label if p > 0))
    assert entropies[4] == 0
    actual = label_entropy(torch.tensor(lam), torch.tensor(first), torch.tensor(second))
    assert actual == pytest.approx(np.mean(entropies), rel=1e-6)
