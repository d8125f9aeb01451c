from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import optim


@pytest.fixture
def setup(toy: SimpleNamespace) -> SimpleNamespace:
    """Returns a network in the middle of its training: net, optimizer, toy."""
    net = toy.make_net(norm=True)
    optimizer = optim.SGD(net.parameters(), lr=0.2, momentum=0.9)
    toy.warm_up(net, optimizer)
    return SimpleNamespace(net=net, optimizer=optimizer, toy=toy)
