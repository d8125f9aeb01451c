"""What every semi-supervised method promises.

Shapes here: B labelled and U unlabelled samples of a step, M of meta-validation.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from core.policies.drawn import NoMix
from core.policies.protocol import Policy
from core.semi_supervised.method import SemiBatch, SemiStep, SemiSupervisedMethod
from core.testing.small_network import (
    Net,
    identical,
    make_data,
    make_net,
    saved_and_loaded,
    snapshot,
)

B, U, M = 5, 4, 3

Make = Callable[[nn.Module, Policy], SemiSupervisedMethod]
"""Makes a method at its beginning, for a network and a policy."""


class Course:
    """A method at its first step, with a network, its optimizer and its stream.

    Args:
        make: the method.
        policy: by which it mixes; a copy is used.
        options: of the network.
    """

    def __init__(self, make: Make, policy: Policy, *, seed: int = 0, **options: Any):
        self.net: Net = make_net(seed, **options)
        self.policy = copy.deepcopy(policy)
        self.method = make(self.net, self.policy)
        self.generator = torch.Generator().manual_seed(8)
        self._optimizer: torch.optim.Optimizer | None = None

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Returns SGD over what learns when it is first asked for."""
        if self._optimizer is None:
            learning = [p for p in self.net.parameters() if p.requires_grad]
            self._optimizer = torch.optim.SGD(learning, lr=0.1, momentum=0.9, weight_decay=1e-3)
        return self._optimizer

    def batch(self, number: int = 1, labelled: int = B, unlabelled: int = U) -> SemiBatch:
        """Returns the batch of step `number`, as much of it as the method asks for."""
        dtype = self.net.inp.weight.dtype
        data = make_data(labelled, M, seed=number, dtype=dtype)
        return SemiBatch(
            labelled=data.batch,
            views=tuple(
                make_data(unlabelled, seed=100 * number + k, dtype=dtype).batch[0]
                for k in range(self.method.views)
            ),
            indices=torch.arange(labelled + unlabelled),
            val=data.val_batch if self.method.needs_meta_validation else None,
            epoch=number,
            progress=0.1 * number,
        )

    def train(self, *numbers: int) -> list[SemiStep]:
        """Takes the steps of these numbers."""
        return [self.step(self.batch(number)) for number in numbers]

    def step(self, batch: SemiBatch) -> SemiStep:
        """Takes one step."""
        return self.method.step(self.net, self.optimizer, batch, generator=self.generator)

    def parameters(self) -> dict[str, Tensor]:
        """Copies of the network's parameters."""
        return {name: p.detach().clone() for name, p in self.net.named_parameters()}

    def state(self) -> dict[str, Any]:
        """Returns all that a resumed training has."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "method": self.method.state_dict(),
            "policy": self.policy.state_dict(),
            "generator": self.generator.get_state(),
            "stream": torch.get_rng_state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Takes over what `state` returned."""
        for part in ("net", "optimizer", "method", "policy"):
            getattr(self, part).load_state_dict(state[part])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["stream"])


def check_parameters_move_and_a_step_says_what_it_did(make: Make, policy: Policy) -> None:
    """That holds in either precision, with batches of any size."""
    for dtype in (torch.float32, torch.float64):
        for labelled, unlabelled in ((B, U), (2, 7), (4, 1), (1, 1)):
            c = Course(make, policy, drop=True, tied=True, dtype=dtype)
            before = c.parameters()
            step = c.step(c.batch(labelled=labelled, unlabelled=unlabelled))
            for name, p in c.net.named_parameters():
                assert p.dtype == dtype
                assert bool(p.isfinite().all())
                assert not torch.equal(p, before[name]), name
            assert step.loss.shape == ()
            assert not step.loss.requires_grad
            assert math.isfinite(step.loss)
            assert all(math.isfinite(value) for value in c.method.metrics(3).values())
            if step.pseudo_labels is not None:
                assert step.pseudo_labels.shape == (unlabelled,)
                assert step.pseudo_labels.dtype == torch.int64


def check_the_same_seed_gives_the_same_bits(make: Make, policy: Policy) -> None:
    """Gradients of before the first step do not count."""
    ends = []
    for stale in (False, True):
        torch.manual_seed(3)
        c = Course(make, policy, norm=True, drop=True)
        for p in c.net.parameters():
            p.grad = torch.ones_like(p) if stale else None
        losses = [step.loss for step in c.train(1, 2, 3)]
        ends.append([losses, snapshot(c.net, c.optimizer)])
    assert identical(*ends)


def check_a_resumed_training_goes_on_alike(make: Make, policy: Policy) -> None:
    """A checkpoint gives back all that is needed, on a network of other weights."""
    c = Course(make, policy, norm=True, drop=True)
    c.train(1, 2)
    held = saved_and_loaded(c.state())
    expected = [step.loss for step in c.train(3, 4)]
    resumed = Course(make, policy, norm=True, drop=True, seed=77)
    resumed.load(held)
    assert identical([step.loss for step in resumed.train(3, 4)], expected)
    assert identical(snapshot(resumed.net), snapshot(c.net))
    evaluated = [course.method.evaluated(course.net).state_dict() for course in (resumed, c)]
    assert identical(*evaluated)


def check_what_is_evaluated_learns_nothing_by_itself(make: Make, policy: Policy) -> None:
    """It is the model, or a copy whose parameters need no gradient."""
    c = Course(make, policy, norm=True, drop=True)
    c.train(1, 2)
    evaluated = c.method.evaluated(c.net)
    if evaluated is not c.net:
        for p in evaluated.parameters():
            assert p.grad is None
            assert not p.requires_grad
        assert identical(dict(evaluated.named_buffers()), dict(c.net.named_buffers()))


def check_statistics_move_once_a_step(make: Make, policy: Policy) -> None:
    """BatchNorm's move so, whatever the number of passes."""
    c = Course(make, policy, norm=True)
    norm: Any = c.net.norm
    for number in (1, 2, 3):
        mean = norm.running_mean.clone()
        c.train(number)
        assert int(norm.num_batches_tracked) == number
        assert not torch.equal(norm.running_mean, mean)
        assert norm.track_running_stats


def check_modes_frozen_parts_and_the_batch_stay(make: Make, policy: Policy) -> None:
    """What is in evaluation mode or needs no gradient is left alone."""
    c = Course(make, policy, norm=True, drop=True)
    c.net.norm.eval()  # type: ignore[union-attr]
    c.net.inp.weight.requires_grad_(False)
    c.method = make(c.net, c.policy)
    before, batch = snapshot(c.net), c.batch()
    held = copy.deepcopy(batch)
    c.step(batch)
    after = snapshot(c.net)
    for part in ("modes", "requires_grad", "buffers"):
        assert identical(after[part], before[part]), part
    assert torch.equal(c.net.inp.weight, before["parameters"]["inp.weight"])
    assert c.net.inp.weight.grad is None
    assert not torch.equal(c.net.hidden.weight, before["parameters"]["hidden.weight"])
    assert identical(vars(batch), vars(held))


def check_all_is_drawn_from_the_generator_but_dropout(make: Make, policy: Policy) -> None:
    """torch's own stream stands where it stood."""
    c, before = Course(make, policy, norm=True), torch.get_rng_state()
    c.train(1, 2)
    assert torch.equal(torch.get_rng_state(), before)


def check_samples_are_those_that_pass_through_the_networks(make: Make, policy: Policy) -> None:
    """All passes of the model and of what is evaluated are counted."""
    c, rows = Course(make, policy, norm=True, drop=True), [0]

    def count(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        rows.append(len(given[0]))

    for network in {c.net, c.method.evaluated(c.net)}:
        network.register_forward_pre_hook(count)
    [step] = c.train(1)
    assert step.samples == sum(rows)


METHOD_CHECKS: tuple[Callable[[Make, Policy], None], ...] = (
    check_parameters_move_and_a_step_says_what_it_did,
    check_the_same_seed_gives_the_same_bits,
    check_a_resumed_training_goes_on_alike,
    check_what_is_evaluated_learns_nothing_by_itself,
    check_statistics_move_once_a_step,
    check_modes_frozen_parts_and_the_batch_stay,
    check_all_is_drawn_from_the_generator_but_dropout,
    check_samples_are_those_that_pass_through_the_networks,
)


def check_method(make: Make, policy: Policy | None = None) -> None:
    """Runs all of METHOD_CHECKS.

    Args:
        make: gives a method at its beginning.
        policy: by which it mixes; None: `NoMix`.

    Raises:
        AssertionError: a promise is broken.

    Examples:
        >>> import core
        >>> from core.semi_supervised import SupervisedOnly
        >>> core.testing.check_method(lambda model, policy: SupervisedOnly())
    """
    for check in METHOD_CHECKS:
        with torch.random.fork_rng(devices=[]):
            check(make, policy or NoMix())
