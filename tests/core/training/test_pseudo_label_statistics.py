from __future__ import annotations

import pytest
import torch

from core.training.pseudo_label_statistics import PseudoLabelStatistics


def test_shares_over_several_steps() -> None:
    statistics = PseudoLabelStatistics()
    statistics.add(torch.tensor([0, -1, 2, 1]), torch.tensor([0, 1, 1, 1]))
    statistics.add(torch.tensor([-1, -1]), torch.tensor([0, 1]))
    assert statistics.metrics() == {
        "accepted": pytest.approx(100 * 3 / 6),
        "accepted_accuracy": pytest.approx(100 * 2 / 3),
    }


def test_no_accuracy_of_nothing() -> None:
    statistics = PseudoLabelStatistics()
    assert statistics.metrics() == {}
    statistics.add(torch.tensor([-1, -1]), torch.tensor([0, 1]))
    assert statistics.metrics() == {"accepted": 0.0}
