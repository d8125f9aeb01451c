"""Which model is another: by the module, by its parameters, and when the first is gone."""

from __future__ import annotations

import gc
import pickle
import weakref

from torch import nn

from core.user_model.last_model import LastModel


def test_it_knows_a_model_by_the_module_or_by_its_parameters() -> None:
    last, net = LastModel(), nn.Linear(2, 2)
    assert not last.is_left(net)
    assert not last.is_left(nn.Sequential(net))
    assert last.is_left(nn.Linear(2, 2))
    assert last.is_left(net)


def test_it_keeps_no_model_alive_and_takes_none_for_one_that_is_gone() -> None:
    last, net = LastModel(), nn.Linear(2, 2)
    last.is_left(net)
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None
    assert last.is_left(nn.Linear(2, 2))


def test_a_pickled_copy_takes_the_next_model_for_its_own() -> None:
    last = LastModel()
    last.is_left(nn.Linear(2, 2))
    copied = pickle.loads(pickle.dumps(last))
    assert not copied.is_left(nn.Linear(2, 2))
    assert copied.is_left(nn.Linear(2, 2))
