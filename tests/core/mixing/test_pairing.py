from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from core.meta.reading import DEFAULT
from core.metamixup import learn_interpolation
from core.mixing.batch import Batch
from core.mixing.pairing import ANY, Pairing
from core.policies.amortised import Amortised
from core.policies.drawn import Beta, Fixed, Frozen, NoMix
from core.policies.learned import Learned
from core.policies.persistent_scores import PersistentScores
from core.policies.protocol import Policy

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


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


def test_what_learning_changed_is_that_of_the_folded_lam() -> None:
    folded = interpolate(Learned(), Pairing(dominant=True))
    unmoved = DEFAULT.final(DEFAULT.start(folded.lam_init))
    torch.testing.assert_close(folded.lam - folded.change, torch.maximum(unmoved, 1 - unmoved))
    assert folded.change.abs().max() > 0.01


def test_the_step_learns_at_the_folded_lam() -> None:
    """What the policy does by itself is what λ0 and the pairing given by hand lead to."""
    folded = interpolate(Learned(), Pairing(dominant=True))
    by_hand = learn_interpolation(*problem(), lr=0.5, lam=folded.lam_init, partner=folded.partner)
    assert torch.equal(folded.hypergradient, by_hand.hypergradient)
    assert torch.equal(folded.lam, torch.maximum(by_hand.lam, 1 - by_hand.lam))


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
