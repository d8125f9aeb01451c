from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.metamixup import learn_interpolation
from core.mixing.batch import Batch
from core.mixing.pairing import ANY, Pairing
from core.policies.amortised import Amortised
from core.policies.drawn import Beta, Fixed, Frozen, NoMix
from core.policies.learned import Learned
from core.policies.persistent_scores import PersistentScores
from core.policies.protocol import Policy
from tests.support.streams import generator

GROUPS = Pairing(groups=(5, 3))
MIXING = [
    Beta(0.4),
    Beta(0.4, per_sample=True),
    Fixed(0.2),
    Frozen((0.0, 0.3, 1.0)),
    Learned(),
    Learned(placebo=True),
    PersistentScores(),
]


def problem() -> tuple[nn.Module, Batch, Batch]:
    """Model, batch and validation batch, always the same."""
    r = generator(7)
    x, y = torch.randn(8, 4, generator=r), torch.randint(3, (8,), generator=r)
    val = torch.randn(6, 4, generator=r), torch.randint(3, (6,), generator=r)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Linear(4, 3), (x, y), val


def interpolate(policy: Policy, pairing: Pairing, seed: int = 0):  # type: ignore[no-untyped-def]
    model, batch, val = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    more = {"generator": generator(seed), "indices": torch.arange(8), "pairing": pairing}
    return policy(model, optimizer, batch, val, **more)


def test_parts_pair_among_themselves_and_nobody_is_left_out() -> None:
    seen = set()
    for seed in range(200):
        partner = GROUPS.partners(8, generator=generator(seed), device="cpu")
        assert partner[:5].sort().values.tolist() == [0, 1, 2, 3, 4]
        assert partner[5:].sort().values.tolist() == [5, 6, 7]
        seen.add(tuple(partner[5:].tolist()))
    assert len(seen) == 6  # every permutation of the smaller part


def test_one_part_draws_what_was_always_drawn() -> None:
    assert torch.equal(
        ANY.partners(8, generator=generator(3), device="cpu"),
        torch.randperm(8, generator=generator(3)),
    )


@pytest.mark.parametrize("groups", [(5, 2), (9,), (-1, 9), ()])
def test_parts_that_do_not_make_up_the_batch(groups: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="sum to the batch's 8"):
        Pairing(groups).partners(8, generator=None, device="cpu")


def test_an_empty_part_is_no_part() -> None:
    partner = Pairing((0, 3)).partners(3, generator=generator(), device="cpu")
    assert partner.sort().values.tolist() == [0, 1, 2]


@pytest.mark.parametrize("policy", MIXING, ids=repr)
def test_policies_pair_within_parts(policy: Policy) -> None:
    partner: Tensor = interpolate(policy, GROUPS).partner
    assert partner[:5].max() < 5 <= partner[5:].min()


@pytest.mark.parametrize("policy", MIXING, ids=repr)
def test_the_sample_outweighs_its_partner(policy: Policy) -> None:
    plain = interpolate(policy, ANY, seed=2)
    folded = interpolate(policy, Pairing(dominant=True), seed=2)
    assert plain.lam_init.min() < 0.5 <= folded.lam.min()
    assert torch.equal(folded.partner, plain.partner)
    assert torch.equal(folded.lam_init, torch.maximum(plain.lam_init, 1 - plain.lam_init))


def test_learning_moves_lam_within_its_half_by_hand() -> None:
    """λ = 1/2 + 1/2·sigmoid(z): the default reading's move of z in NumPy, from the hypergradient
    that the λ0 of the pairing has without any pairing."""
    given = interpolate(Learned(), Pairing(dominant=True))
    plain = learn_interpolation(*problem(), lr=0.5, lam=given.lam_init, partner=given.partner)
    torch.testing.assert_close(given.hypergradient, plain.hypergradient)
    share = 2 * given.lam_init.double().numpy() - 1
    slope = given.hypergradient.double().numpy() * share * (1 - share) / 2
    z = np.log(share / (1 - share)) - 4 * slope / np.sqrt(np.mean(slope**2))
    lam = 1 / 2 + 1 / 2 / (1 + np.exp(-z))
    np.testing.assert_allclose(given.lam.double().numpy(), lam, atol=1e-5)
    np.testing.assert_allclose(given.change.double().numpy(), lam - (1 + share) / 2, atol=1e-5)


@pytest.mark.parametrize("policy", [Learned(), Amortised(), PersistentScores()], ids=repr)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_wanted_downward_ends_below_its_start(policy: Policy, seed: int) -> None:
    """No move turns round at 1/2; partners of PersistentScores stand still, as each is its own."""
    alone = Pairing(tuple([1] * 8) if isinstance(policy, PersistentScores) else None, dominant=True)
    given = interpolate(copy.deepcopy(policy), alone, seed=seed)
    assert given.lam.min() >= 0.5
    assert (given.change * given.hypergradient).max() <= 0


def test_predicted_steps_pair_and_fold_too() -> None:
    policy = Amortised(every=2)
    pairing = Pairing((5, 3), dominant=True)
    interpolate(policy, pairing)
    predicted = interpolate(policy, pairing, seed=1)
    assert predicted.hypergradient is None
    assert predicted.partner[:5].max() < 5 <= predicted.partner[5:].min()
    assert predicted.lam.min() >= 0.5


def test_no_mix_has_no_use_for_it() -> None:
    given = interpolate(NoMix(), Pairing((5, 3), dominant=True))
    assert torch.equal(given.partner, torch.arange(8))
    assert torch.equal(given.lam, torch.ones(8))
