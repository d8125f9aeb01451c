from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from core.semi_supervised.method import SemiBatch
from core.semi_supervised.supervised import SupervisedOnly


def test_a_step_on_the_labelled_images_alone() -> None:
    model = nn.Linear(4, 3)
    x, y = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])
    loss = F.cross_entropy(model(x), y)
    gradient, _ = torch.autograd.grad(loss, (model.weight, model.bias))
    expected = model.weight.detach() - 0.3 * gradient
    method, optimizer = SupervisedOnly(), torch.optim.SGD(model.parameters(), lr=0.3)
    batch = SemiBatch((x, y), (), torch.arange(5), None, 0, 0.0)
    step = method.step(model, optimizer, batch, generator=torch.Generator())
    torch.testing.assert_close(model.weight.detach(), expected)
    torch.testing.assert_close(step.loss, loss.detach())
    assert step.samples == 5
    assert method.evaluated(model) is model
