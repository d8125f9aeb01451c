from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.meta.engines.replay import Replay
from core.random_streams import (
    LABEL_NOISE,
    LONG_TAIL,
    NAMES,
    RandomStreams,
    derived_generator,
    forked,
)


def draw(streams: RandomStreams, name: str) -> list[float]:
    return torch.rand(4, generator=streams[name]).tolist()


def test_the_stream_of_a_device_that_is_no_cuda_is_replayed_and_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of dropout on Apple's devices, whose one stream is a counter here."""
    stream = [torch.tensor([5])]
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: stream[0])
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: stream.__setitem__(0, state))

    def draw() -> int:
        stream[0] = stream[0] + 1
        return int(stream[0])

    replay = Replay([SimpleNamespace(device=torch.device("mps"))])  # type: ignore[list-item]
    drawn = []
    for _ in range(2):
        with replay():
            drawn.append([draw(), draw()])
    assert drawn == [[6, 7], [6, 7]]
    assert draw() == 6
    with forked([torch.device("mps")]):
        draw()
    assert draw() == 7


def test_every_seed_and_purpose_has_a_stream_of_its_own() -> None:
    drawn = {(s, n): draw(RandomStreams(s), n) for s, n in itertools.product(range(3), NAMES)}
    assert len({tuple(values) for values in drawn.values()}) == 3 * len(NAMES) == 18
    assert all(draw(RandomStreams(s), n) == values for (s, n), values in drawn.items())


def test_the_streams_of_the_data_are_none_of_those() -> None:
    everywhere = torch.get_rng_state()
    drawn = [draw(RandomStreams(s), n) for s, n in itertools.product(range(3), NAMES)]
    pairs = list(itertools.product(range(3), (LONG_TAIL, LABEL_NOISE)))
    drawn += [torch.rand(4, generator=derived_generator(*pair)).tolist() for pair in pairs]
    drawn += [torch.rand(4, generator=torch.Generator().manual_seed(s)).tolist() for s in range(3)]
    assert len(set(map(tuple, drawn))) == len(drawn)
    assert torch.equal(torch.get_rng_state(), everywhere)


def test_a_stream_keeps_its_numbers() -> None:
    """Stored results are of these streams: other numbers would be other trainings."""
    word = int(np.random.SeedSequence([3, 4]).generate_state(1, np.uint64)[0])
    expected = torch.rand(4, generator=torch.Generator().manual_seed(word // 2)).tolist()
    assert draw(RandomStreams(3), "meta") == expected
    assert torch.rand(4, generator=derived_generator(3, 4)).tolist() == expected


def test_drawing_from_one_moves_no_other() -> None:
    streams = RandomStreams(5)
    everywhere = torch.get_rng_state()
    for _ in range(3):
        draw(streams, "policy")
    assert torch.equal(torch.get_rng_state(), everywhere)
    for name in set(NAMES) - {"policy"}:
        assert draw(streams, name) == draw(RandomStreams(5), name)


def test_going_on_from_a_state() -> None:
    streams, other = RandomStreams(0), RandomStreams(1)
    for name in NAMES:
        draw(streams, name)
    other.load_state_dict(streams.state_dict())
    for name in NAMES:
        assert draw(other, name) == draw(streams, name)


def test_a_checkpoint_from_before_a_stream_existed() -> None:
    streams, other = RandomStreams(0), RandomStreams(1)
    draw(streams, "policy")
    older = {name: streams.state_dict()[name] for name in ("order", "augmentation", "policy")}
    other.load_state_dict(older)
    assert draw(other, "policy") == draw(streams, "policy")
    assert draw(other, "unlabelled_order") == draw(RandomStreams(1), "unlabelled_order")
