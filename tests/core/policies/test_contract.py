"""The contract that ships: what it finds, what it lets pass, and what it leaves alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

import core
from core.semi_supervised import SupervisedOnly


class Halves(core.Policy):
    """λ = 1/2, with partners drawn with replacement."""

    def interpolate(self, step: core.policies.StepInput) -> core.Interpolation:
        core.mixing.check_batch(step.batch, "training")
        n = len(step.batch[0])
        lam = step.batch[0].new_full((n,), 0.5)
        return core.Interpolation(lam, torch.randint(n, (n,), generator=step.generator), lam)


class DrawsElsewhere(Halves):
    def interpolate(self, step: core.policies.StepInput) -> core.Interpolation:
        np.random.rand()  # noqa: NPY002
        return super().interpolate(step)


class Seeds(Halves):
    def interpolate(self, step: core.policies.StepInput) -> core.Interpolation:
        random.seed(0)
        return super().interpolate(step)


class Writes(Halves):
    needs_meta_validation = True

    def interpolate(self, step: core.policies.StepInput) -> core.Interpolation:
        step.validation()[0].mul_(0.5)
        return super().interpolate(step)


class ReadsLater(Halves):
    def __init__(self) -> None:
        self.calls = 0

    def interpolate(self, step: core.policies.StepInput) -> core.Interpolation:
        self.calls += 1
        given = super().interpolate(step)
        if step.val_batch is not None and self.calls > 1:
            given.lam.mul_(0.5)
        return given


class Outside(Halves):
    def interpolate(self, step: core.policies.StepInput) -> core.Interpolation:
        given = super().interpolate(step)
        given.partner[0] = len(given.lam)
        return given


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (DrawsElsewhere, "the stream of random or of numpy.random has moved"),
        (Seeds, "the stream of random or of numpy.random has moved"),
        (Writes, "it writes into a batch that it was given"),
        (ReadsLater, "it reads the validation batch"),
        (Outside, "a partner is outside the part that is mixed"),
    ],
)
def test_what_breaks_a_promise_is_found(make: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        core.testing.check_policy(make)


def test_streams_are_left_where_they_were() -> None:
    before = torch.get_rng_state()
    core.testing.check_policy(Halves)
    core.testing.check_method(lambda model, policy: SupervisedOnly())
    assert torch.equal(torch.get_rng_state(), before)
