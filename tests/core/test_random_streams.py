from __future__ import annotations

import itertools

import torch

from core.random_streams import NAMES, RandomStreams


def draw(streams: RandomStreams, name: str) -> list[float]:
    return torch.rand(4, generator=streams[name]).tolist()


def test_every_seed_and_purpose_has_a_stream_of_its_own() -> None:
    drawn = {(s, n): draw(RandomStreams(s), n) for s, n in itertools.product(range(3), NAMES)}
    assert len({tuple(values) for values in drawn.values()}) == 12
    assert all(draw(RandomStreams(s), n) == values for (s, n), values in drawn.items())


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
