"""One contract, every method; what each promises for itself is tested beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch

from core.policies.drawn import Beta, NoMix
from core.policies.learned import Learned
from core.policies.protocol import Policy
from core.semi_supervised.build import build_method
from core.semi_supervised.config import SEMI_KINDS, SemiKind, SemiSupervisedConfig
from core.testing import METHOD_CHECKS
from core.testing.semi_supervised_contract import B, Course


@dataclass(frozen=True)
class Case:
    """A method's settings. Steps with weight 0 are those of supervised-only where `falls_back`."""

    config: SemiSupervisedConfig
    policy: Policy
    falls_back: bool


def case(kind: SemiKind, policy: Policy | None = None, falls_back: bool = True, **of: Any) -> Case:
    return Case(SemiSupervisedConfig(kind, labelled=B, **of), policy or NoMix(), falls_back)


CASES = {
    "supervised": case("supervised", falls_back=False),
    "pi-model": case("pi-model", weight=5.0),
    "mean-teacher": case("mean-teacher", weight=5.0, ema=0.8),
    "vat": case("vat", epsilon=2.0),
    "vat, finite difference": case("vat", epsilon=2.0, xi=1e-3, power_iterations=2),
    "vat + em": case("vat", epsilon=2.0, entropy=0.1, falls_back=False),
    # 3 classes: of the largest of three probabilities about half exceed 0.45 in these networks.
    "pseudo-label": case("pseudo-label", threshold=0.45),
    "pseudo-label, none": case("pseudo-label", threshold=1.0),
    "mixup + pseudo-label": case(
        "pseudo-label", Beta(0.7, per_sample=True), falls_back=False, threshold=0.45
    ),
    "metamixup + pseudo-label": case("pseudo-label", Learned(), falls_back=False, threshold=0.45),
    "mixmatch without mixup": case("mixmatch", weight=5.0, ema=0.8),
    "mixmatch": case(
        "mixmatch",
        Beta(0.75, per_sample=True),
        falls_back=False,
        weight=5.0,
        ramp="linear",
        ramp_share=0.25,
        ema=0.8,
        augmentations=3,
    ),
    "mixmatch + metamixup": case("mixmatch", Learned(), falls_back=False, weight=5.0, ema=0.8),
}
every_method = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@pytest.mark.parametrize("check", METHOD_CHECKS, ids=lambda check: check.__name__)
@every_method
def test_every_method_keeps_the_contract(case: Case, check: Callable[..., None]) -> None:
    check(partial(build_method, case.config), case.policy)


def test_every_kind_is_here() -> None:
    assert {case.config.kind for case in CASES.values()} == set(SEMI_KINDS)


@every_method
def test_each_weight_is_trained_in_an_autocast_region_of_the_users_own(case: Case) -> None:
    """Where torch keeps the casts of passes without gradients, as its versions up to 2.9 do."""
    course = Course(partial(build_method, case.config), case.policy)
    before = course.parameters()
    with torch.autocast("cpu", torch.bfloat16):
        course.train(1)
    for name, p in course.parameters().items():
        assert not torch.equal(p, before[name]), name


@every_method
def test_a_network_may_write_to_its_input(case: Case) -> None:
    """As one that normalizes in place, which is the same network as one that does not."""
    ends = []
    for in_place in (True, False):
        course = Course(partial(build_method, case.config), case.policy)

        def shifted(module: Any, args: Any, in_place: bool = in_place) -> tuple[torch.Tensor]:
            return (args[0].sub_(0.5) if in_place else args[0] - 0.5,)

        course.net.register_forward_pre_hook(shifted)
        course.train(0, 1)
        ends.append(course.parameters())
    torch.testing.assert_close(*ends, rtol=0, atol=0)


@every_method
def test_what_is_evaluated_is_the_model_or_its_average(case: Case) -> None:
    course = Course(partial(build_method, case.config), case.policy, norm=True, drop=True)
    path = [course.parameters()]
    for number in (1, 2):
        course.train(number)
        path.append(course.parameters())
    evaluated, decay = course.method.evaluated(course.net), case.config.ema
    assert (evaluated is course.net) == (decay is None)
    if decay is not None:
        weights = (decay**2, decay * (1 - decay), 1 - decay)
        for name, p in evaluated.named_parameters():
            expected = sum(w * at[name] for w, at in zip(weights, path, strict=True))
            torch.testing.assert_close(p, expected, rtol=1e-12, atol=1e-14)


FALLING_BACK = {name: case for name, case in CASES.items() if case.falls_back}


@pytest.mark.parametrize("case", FALLING_BACK.values(), ids=FALLING_BACK)
def test_without_weight_it_is_supervised_only(case: Case) -> None:
    ends = []
    supervised = SemiSupervisedConfig("supervised", labelled=B)
    for config in (supervised, replace(case.config, weight=0.0)):
        course = Course(partial(build_method, config), case.policy, tied=True)
        course.train(1, 2, 3)
        ends.append(course.parameters())
    # Pseudo-labels come in float32, and with them the sizes of the labelled targets.
    torch.testing.assert_close(*ends, rtol=1e-7, atol=1e-9)
