from __future__ import annotations

import torch
from torch import nn

from core.user_model.held_statistics import statistics_held


def test_batch_statistics_are_used_and_running_ones_stay() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    x = torch.randn(10, 3)
    before = {name: b.clone() for name, b in model.named_buffers()}
    with statistics_held(model):
        inside = model(x)
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    torch.testing.assert_close(inside.mean(0), torch.zeros(4), atol=1e-6, rtol=0)
    assert torch.equal(model(x), inside)
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    assert int(model[1].num_batches_tracked) == 1


def test_layers_that_keep_none_and_those_in_evaluation_stay_as_they_are() -> None:
    none = nn.BatchNorm1d(4, track_running_stats=False)
    fixed = nn.BatchNorm1d(4).eval()
    with torch.no_grad():
        fixed.running_mean.fill_(5.0)
    model, x = nn.ModuleList([none, fixed]), torch.randn(10, 4)
    outside = fixed(x)
    with statistics_held(model):
        assert torch.equal(fixed(x), outside)
    assert not none.track_running_stats
    assert fixed.track_running_stats
