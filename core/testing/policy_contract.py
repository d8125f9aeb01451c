"""What every interpolation policy promises."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.mixing.batch import Batch
from core.mixing.interpolation import Interpolation
from core.mixing.real_step import mixed_step
from core.policies.protocol import Policy
from core.testing.small_network import (
    CLASSES,
    Net,
    identical,
    make_data,
    make_net,
    saved_and_loaded,
    snapshot,
    warm_up,
)

Make = Callable[[], Policy]
"""Makes a policy at its beginning. Networks that it has see x [n, 4], or of a model features [n, 5]
and logits [n, 3]."""


@dataclass
class Scene:
    """A policy at its first step, with a network, an optimizer over both and a batch of nine."""

    policy: Policy
    net: Net
    batch: Batch
    val_batch: Batch
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.SGD(
            [*self.net.parameters(), *self.policy.networks.parameters()],
            lr=0.1, momentum=0.9, weight_decay=0.01,
        )  # fmt: skip

    def ask(self, **arguments: Any) -> Interpolation:
        """Returns its answer, with a validation batch exactly where it needs one."""
        arguments.setdefault("indices", torch.arange(len(self.batch[0])))
        arguments.setdefault("generator", torch.Generator().manual_seed(8))
        val_batch = self.val_batch if self.policy.needs_meta_validation else None
        return self.policy(self.net, self.optimizer, self.batch, val_batch, **arguments)


def scene(make: Make, *, n: int = 9, soft: bool = False, dtype: torch.dtype = torch.float64) -> Any:
    """Returns the same scene every time, with a policy of its own."""
    net = make_net(norm=n > 1, drop=True, tied=True, dtype=dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        policy = make()
    policy.networks.to(dtype)
    data = make_data(n, 4, soft=soft, dtype=dtype)
    made = Scene(policy, net, data.batch, data.val_batch)
    warm_up(net, made.optimizer)
    torch.manual_seed(20)  # dropout in virtual passes
    return made


def answer(given: Interpolation) -> dict[str, Any]:
    """Returns the tensors and numbers of an interpolation."""
    values = {name: v.detach() if isinstance(v, Tensor) else v for name, v in vars(given).items()}
    return {n: v for n, v in values.items() if v is None or isinstance(v, (Tensor, int))}


def check_shapes_dtypes_and_ranges(make: Make, sizes: tuple[int, ...] = (2, 9)) -> None:
    """λ lies in [0, 1], partners within the part that is mixed; weights are 0 or more."""
    for n in sizes:
        for dtype in (torch.float32, torch.float64):
            for soft in (False, True):
                s = scene(make, n=n, soft=soft, dtype=dtype)
                for _ in range(2):
                    given = s.ask()
                    _check_answer(given, s, n, dtype)


def _check_answer(given: Interpolation, s: Scene, n: int, dtype: torch.dtype) -> None:
    pairs = len(given.lam)
    assert 1 <= pairs <= n
    assert given.lam.shape == given.lam_init.shape == given.partner.shape == (pairs,)
    assert given.lam.dtype == given.lam_init.dtype == dtype
    assert given.partner.dtype == torch.int64
    positions = given.partner.tolist()
    assert all(0 <= one < pairs for one in positions), "a partner is outside the part that is mixed"
    for lam in (given.lam, given.lam_init):
        assert bool(((lam >= 0) & (lam <= 1)).all())
    learning = list(s.policy.networks.parameters())
    assert not given.lam.requires_grad or learning, "λ is attached to a graph"
    assert not given.lam_init.requires_grad
    if given.weights is not None:
        assert given.weights.shape == (n,)
        assert given.weights.dtype == dtype
        assert bool((given.weights >= 0).all() & given.weights.isfinite().all())
        assert not given.weights.requires_grad or learning, "weights are attached to a graph"
    labels = given.mix_labels(s.batch[1][:pairs], CLASSES)
    torch.testing.assert_close(labels.sum(1), torch.ones(pairs, dtype=dtype))
    assert given.extra_samples >= 0


def check_random_numbers_come_from_the_generator(make: Make) -> None:
    """The same state of the generator gives the same answer; without one torch's stream is used."""
    first = scene(make)
    generator = torch.Generator().manual_seed(3)
    begin = torch.get_rng_state()
    with _other_streams_stand():
        before = [answer(first.ask(generator=generator)) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), begin), "torch's own stream has moved"
    again, other = scene(make), torch.Generator().manual_seed(3)
    assert identical([answer(again.ask(generator=other)) for _ in range(2)], before)
    assert torch.equal(other.get_state(), generator.get_state())
    ends = []
    for _ in range(2):
        s = scene(make)
        torch.manual_seed(1)
        ends.append((answer(s.ask(generator=None)), torch.get_rng_state()))
    assert identical(*ends)


@contextmanager
def _other_streams_stand() -> Iterator[None]:
    """Those of `random` and of `numpy.random`, which are as before in the end."""
    held = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(20)
    np.random.seed(20)  # noqa: NPY002
    try:
        stood = random.random(), float(np.random.rand())  # noqa: NPY002
        random.seed(20)
        np.random.seed(20)  # noqa: NPY002
        yield
        stands = random.random(), float(np.random.rand())  # noqa: NPY002
        assert stands == stood, "the stream of random or of numpy.random has moved"
    finally:
        random.setstate(held[0])
        np.random.set_state(held[1])  # noqa: NPY002


def check_nothing_is_changed(make: Make) -> None:
    """Model, optimizer, gradients, modes and both batches are as before."""
    s = scene(make)
    s.net.inp.weight.grad = torch.ones_like(s.net.inp.weight)
    s.net.norm.eval()
    before = snapshot(s.net, s.optimizer)
    held = copy.deepcopy((s.batch, s.val_batch))
    for _ in range(2):
        s.ask()
    assert identical(before, snapshot(s.net, s.optimizer)), "model or optimizer has changed"
    assert identical(held, (s.batch, s.val_batch)), "it writes into a batch that it was given"


def check_needs_meta_validation_is_honest(make: Make) -> None:
    """A validation batch is read where it is said to be, and nowhere else."""
    s, other = scene(make), scene(make)
    if s.policy.needs_meta_validation:
        message = refusal(lambda: s.policy(s.net, s.optimizer, s.batch, indices=torch.arange(9)))
        assert "meta-validation batch" in message
        assert identical(answer(s.ask()), answer(scene(make).ask())), "the refusal counts as a step"
        s = scene(make)
        other.val_batch = (-other.val_batch[0], other.val_batch[1])
        # More than once: the first step of Adam knows a gradient's sign alone.
        alike = all(_lam_and_weights_equal(s.ask(), other.ask()) for _ in range(4))
        assert not alike, "neither λ nor weights depend on it"
    else:
        for _ in range(4):
            given = other.policy(
                other.net, other.optimizer, other.batch, other.val_batch,
                generator=torch.Generator().manual_seed(8), indices=torch.arange(9),
            )  # fmt: skip
            assert identical(answer(given), answer(s.ask())), "it reads the validation batch"


def _lam_and_weights_equal(one: Interpolation, two: Interpolation) -> bool:
    alike = torch.equal(one.lam, two.lam)
    if one.weights is not None and two.weights is not None:
        alike = alike and torch.equal(one.weights, two.weights)
    return alike


def check_bad_batches_are_refused(make: Make) -> None:
    """A ValueError says what is off."""
    s = scene(make)
    x, y = s.batch
    for step in range(2):
        for batch, message in [
            ((x.byte(), y), "training inputs must be floating point"),
            ((x, y[:-1]), "training labels must be integers [9]"),
            ((x[:0], y[:0]), "n >= 1"),
        ]:
            s.batch = batch
            assert message in refusal(s.ask)
        s.batch = x, y
        train(s, 1 - step)


def check_indices_are_read_where_scores_are_kept(make: Make) -> None:
    """No other policy reads them."""
    answers = []
    for indices in (None, torch.arange(9) // 3, torch.arange(9)):
        s = scene(make)
        s.ask()
        if s.policy.scores is not None and indices is None:
            assert "need `indices`" in refusal(lambda s=s: s.ask(indices=None))  # type: ignore[misc]
        else:
            answers.append(answer(s.ask(indices=indices)))
    assert identical(answers[0], answers[-1]) == (len(answers) == 3)


def check_a_resumed_training_goes_on_alike(make: Make) -> None:
    """`state_dict` holds all that is needed, at the beginning and later."""
    for steps in (0, 1, 2, 5):
        s = scene(make)
        train(s, steps)
        held = saved_and_loaded(
            {"policy": s.policy.state_dict(), "optimizer": s.optimizer.state_dict()}
        )
        weights = s.net.state_dict()
        resumed = scene(make)
        train(resumed, 1)
        resumed.policy.load_state_dict(held["policy"])
        resumed.optimizer.load_state_dict(held["optimizer"])
        resumed.net.load_state_dict(weights)
        torch.manual_seed(20)
        expected = [answer(given) for given in train(s, 4)]
        torch.manual_seed(20)
        assert identical([answer(given) for given in train(resumed, 4)], expected)


def check_networks_learn_with_the_model(make: Make) -> None:
    """Each of their parameters moves, and what the policy says of the steps is finite."""
    s = scene(make)
    before = [p.detach().clone() for p in s.policy.networks.parameters()]
    train(s, 3)
    after = list(s.policy.networks.parameters())
    assert len(after) == len(before)
    assert not any(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert all(map(math.isfinite, s.policy.metrics().values()))


POLICY_CHECKS: tuple[Callable[[Make], None], ...] = (
    check_shapes_dtypes_and_ranges,
    check_random_numbers_come_from_the_generator,
    check_nothing_is_changed,
    check_needs_meta_validation_is_honest,
    check_bad_batches_are_refused,
    check_indices_are_read_where_scores_are_kept,
    check_a_resumed_training_goes_on_alike,
    check_networks_learn_with_the_model,
)


def check_policy(make: Make) -> None:
    """Runs all of POLICY_CHECKS.

    Args:
        make: gives a policy at its beginning, such as its class.

    Raises:
        AssertionError: a promise is broken.

    Examples:
        >>> import core
        >>> core.testing.check_policy(core.NoMix)
    """
    for check in POLICY_CHECKS:
        with torch.random.fork_rng(devices=[]):
            check(make)


def train(s: Any, steps: int) -> list[Interpolation]:
    """Takes so many steps on the scene's batch."""
    answers = []
    for step in range(steps):
        answers.append(s.ask(generator=torch.Generator().manual_seed(step)))
        mixed_step(s.net, s.optimizer, s.batch, answers[-1])
    return answers


def refusal(call: Callable[[], object]) -> str:
    """Returns the message of the ValueError that the call raises."""
    try:
        call()
    except ValueError as error:
        return str(error)
    raise AssertionError("nothing was refused")
