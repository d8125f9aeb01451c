"""CutMix: what it pastes, how often, from which numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from core.mixing.interpolation import Interpolation
from core.policies import CutMix, ScoresConfig

X, Y = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 6, 6), torch.arange(8) % 3
MODEL = nn.Flatten()
OPTIMIZER = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)


def answer(policy: CutMix, generator: torch.Generator) -> Interpolation:
    return policy(MODEL, OPTIMIZER, (X, Y), generator=generator)


def test_a_box_of_the_partner_takes_its_share_of_each_image() -> None:
    given = answer(CutMix(probability=1.0), torch.Generator().manual_seed(1))
    shown: Tensor = given.logits(MODEL, X)
    assert 0.05 < float(given.lam[0]) < 0.95
    assert len(given.lam.unique()) == 1  # one λ a batch
    expected = given.lam * X[:, 0, 0, 0] + (1 - given.lam) * X[given.partner, 0, 0, 0]
    torch.testing.assert_close(shown.mean(1), expected)
    apart = given.partner != torch.arange(8)
    whole = (shown == X.flatten(1)) | (shown == X[given.partner].flatten(1))
    assert float(whole[apart].float().mean()) > 0.4  # all pixels but those of the border


def test_batches_are_mixed_as_often_as_it_says_and_the_stream_moves_alike() -> None:
    generator, policy = torch.Generator().manual_seed(0), CutMix(probability=0.5)
    given = [answer(policy, generator) for _ in range(200)]
    mixed = sum(bool((each.lam < 1).all()) for each in given)
    plain = sum(bool((each.lam == 1).all()) for each in given)
    assert mixed + plain == 200
    assert 75 < mixed < 125
    other = torch.Generator().manual_seed(0)
    for _ in range(200):
        answer(CutMix(probability=1.0), other)
    assert torch.equal(generator.get_state(), other.get_state())


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"probability of CutMix must lie in \[0, 1\], got 1.5"):
        CutMix(probability=1.5)
    with pytest.raises(ValueError, match="alpha"):
        CutMix(alpha=-1.0)
    with pytest.raises(ValueError, match="mixing of scores must be input or area, got 'box'"):
        ScoresConfig(mixing="box")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one spatial dimension"):
        CutMix()(MODEL, OPTIMIZER, (X[:, 0, 0], Y))
