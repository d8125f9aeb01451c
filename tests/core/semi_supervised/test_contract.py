"""One contract, every method; what each promises for itself is tested beside it."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.policies.drawn import Beta, NoMix
from core.policies.learned import Learned
from core.policies.protocol import Policy
from core.semi_supervised.build import build_method
from core.semi_supervised.config import SEMI_KINDS, SemiKind, SemiSupervisedConfig
from core.semi_supervised.method import SemiBatch, SemiStep, SemiSupervisedMethod

B, U, M = 5, 4, 3


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
    "pi-model ramped": case("pi-model", weight=5.0, ramp="sigmoid", ramp_share=0.8),
    "mean-teacher": case("mean-teacher", weight=5.0, ema=0.8),
    "vat": case("vat", epsilon=2.0),
    "vat, finite difference": case("vat", epsilon=2.0, xi=1e-3, power_iterations=2),
    "vat + em": case("vat", epsilon=2.0, entropy=0.1, falls_back=False),
    # 3 classes: of the largest of three probabilities about half exceed 0.45 in these networks.
    "pseudo-label": case("pseudo-label", threshold=0.45),
    "pseudo-label, all": case("pseudo-label", threshold=0.0),
    "pseudo-label, none": case("pseudo-label", threshold=1.0),
    "apl": case("pseudo-label", threshold=0.95, threshold_step=0.2, threshold_period=1),
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


def build(case: Case, net: nn.Module) -> SemiSupervisedMethod:
    return build_method(case.config, net, copy.deepcopy(case.policy))


def make_batch(
    toy: SimpleNamespace,
    method: SemiSupervisedMethod,
    seed: int = 1,
    *,
    labelled: int = B,
    unlabelled: int = U,
    dtype: torch.dtype = torch.float64,
) -> SemiBatch:
    """The batch of step `seed`, as much of it as the method asks for."""
    data = toy.make_data(labelled, M, seed=seed, dtype=dtype)
    views = [
        toy.make_data(unlabelled, seed=100 * seed + k, dtype=dtype).batch[0]
        for k in range(method.views)
    ]
    return SemiBatch(
        labelled=data.batch,
        views=tuple(views),
        indices=torch.arange(labelled + unlabelled),
        val=data.val_batch if method.needs_meta_validation else None,
        epoch=seed,
        progress=0.1 * seed,
    )


def train(
    toy: SimpleNamespace,
    method: SemiSupervisedMethod,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    steps: range,
) -> list[SemiStep]:
    return [
        method.step(net, optimizer, make_batch(toy, method, i), generator=generator) for i in steps
    ]


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        [p for p in net.parameters() if p.requires_grad], lr=0.1, momentum=0.9, weight_decay=1e-3
    )


def seeded(seed: int = 8) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parameters(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def saved_and_loaded(state: Mapping[str, Any]) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_every_kind_is_here() -> None:
    assert {case.config.kind for case in CASES.values()} == set(SEMI_KINDS)


@every_method
@pytest.mark.parametrize("sizes", [(B, U), (2, 7), (4, 1), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parameters_move_and_a_step_tells_what_it_did(
    case: Case, sizes: tuple[int, int], dtype: torch.dtype, toy: SimpleNamespace
) -> None:
    net = toy.make_net(drop=True, tied=True, dtype=dtype)
    method, before = build(case, net), parameters(net)
    batch = make_batch(toy, method, labelled=sizes[0], unlabelled=sizes[1], dtype=dtype)
    step = method.step(net, sgd(net), batch, generator=seeded())
    for name, p in net.named_parameters():
        assert p.dtype == dtype
        assert bool(p.isfinite().all())
        assert not torch.equal(p, before[name]), name
    assert step.loss.shape == ()
    assert not step.loss.requires_grad
    assert math.isfinite(step.loss)
    assert all(math.isfinite(value) for value in method.metrics(3).values())
    if step.pseudo_labels is not None:
        assert step.pseudo_labels.shape == (sizes[1],)
        assert step.pseudo_labels.dtype == torch.int64


@every_method
def test_the_same_seed_gives_the_same_bits(case: Case, toy: SimpleNamespace) -> None:
    ends = []
    for _ in range(2):
        torch.manual_seed(3)
        net = toy.make_net(norm=True, drop=True)
        method, optimizer = build(case, net), sgd(net)
        steps = train(toy, method, net, optimizer, seeded(), range(1, 4))
        ends.append([[step.loss for step in steps], toy.snapshot(net, optimizer)])
    assert toy.identical(*ends)


@every_method
def test_a_resumed_training_goes_on_alike(case: Case, toy: SimpleNamespace) -> None:
    net, generator = toy.make_net(norm=True, drop=True), seeded()
    optimizer, policy = sgd(net), copy.deepcopy(case.policy)
    method = build_method(case.config, net, policy)
    train(toy, method, net, optimizer, generator, range(1, 3))
    held = saved_and_loaded(
        {
            "net": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "method": method.state_dict(),
            "policy": policy.state_dict(),
            "generator": generator.get_state(),
            "stream": torch.get_rng_state(),
        }
    )
    steps = train(toy, method, net, optimizer, generator, range(3, 5))

    again, policy = toy.make_net(norm=True, drop=True, seed=77), copy.deepcopy(case.policy)
    again_optimizer, again_method = sgd(again), build_method(case.config, again, policy)
    again.load_state_dict(held["net"])
    again_optimizer.load_state_dict(held["optimizer"])
    again_method.load_state_dict(held["method"])
    policy.load_state_dict(held["policy"])
    generator.set_state(held["generator"])
    torch.set_rng_state(held["stream"])
    resumed = train(toy, again_method, again, again_optimizer, generator, range(3, 5))
    assert [float(s.loss) for s in resumed] == [float(s.loss) for s in steps]
    assert toy.identical(toy.snapshot(again), toy.snapshot(net))
    assert toy.identical(
        again_method.evaluated(again).state_dict(), method.evaluated(net).state_dict()
    )


@every_method
def test_what_is_evaluated_is_the_model_or_its_average(case: Case, toy: SimpleNamespace) -> None:
    net = toy.make_net(norm=True, drop=True)
    method, optimizer, generator, path = build(case, net), sgd(net), seeded(), [parameters(net)]
    for i in (1, 2):
        train(toy, method, net, optimizer, generator, range(i, i + 1))
        path.append(parameters(net))
    evaluated, decay = method.evaluated(net), case.config.ema
    if decay is None:
        assert evaluated is net
        return
    assert evaluated is not net
    weights = (decay**2, decay * (1 - decay), 1 - decay)
    for name, p in evaluated.named_parameters():
        expected = sum(w * at[name] for w, at in zip(weights, path, strict=True))
        torch.testing.assert_close(p, expected, rtol=1e-12, atol=1e-14)
        assert p.grad is None
        assert not p.requires_grad
    assert toy.identical(dict(evaluated.named_buffers()), dict(net.named_buffers()))


@every_method
def test_statistics_move_once_a_step(case: Case, toy: SimpleNamespace) -> None:
    net = toy.make_net(norm=True)
    method, optimizer, generator = build(case, net), sgd(net), seeded()
    for i in (1, 2, 3):
        mean = net.norm.running_mean.clone()
        train(toy, method, net, optimizer, generator, range(i, i + 1))
        assert int(net.norm.num_batches_tracked) == i
        assert not torch.equal(net.norm.running_mean, mean)
        assert net.norm.track_running_stats


@every_method
def test_modes_frozen_parts_and_the_batch_stay(case: Case, toy: SimpleNamespace) -> None:
    net = toy.make_net(norm=True, drop=True)
    net.norm.eval()
    net.inp.weight.requires_grad_(False)
    method, before = build(case, net), toy.snapshot(net)
    batch = make_batch(toy, method)
    held = copy.deepcopy(batch)
    method.step(net, sgd(net), batch, generator=seeded())
    after = toy.snapshot(net)
    for kept in ("modes", "requires_grad", "buffers"):
        assert toy.identical(after[kept], before[kept]), kept
    assert torch.equal(net.inp.weight, before["parameters"]["inp.weight"])
    assert net.inp.weight.grad is None
    assert not torch.equal(net.hidden.weight, before["parameters"]["hidden.weight"])
    assert toy.identical(vars(batch), vars(held))


@every_method
def test_gradients_of_before_do_not_count(case: Case, toy: SimpleNamespace) -> None:
    ends = []
    for stale in (False, True):
        torch.manual_seed(3)
        net = toy.make_net(drop=True)
        method = build(case, net)
        if stale:
            for p in net.parameters():
                p.grad = torch.ones_like(p)
        batch = make_batch(toy, method)
        method.step(net, sgd(net), batch, generator=seeded())
        ends.append(parameters(net))
    assert toy.identical(*ends)


@every_method
def test_all_is_drawn_from_the_generator_but_dropout(case: Case, toy: SimpleNamespace) -> None:
    net = toy.make_net(norm=True)
    method, before = build(case, net), torch.get_rng_state()
    train(toy, method, net, sgd(net), seeded(), range(1, 3))
    assert torch.equal(torch.get_rng_state(), before)


@every_method
def test_samples_are_those_that_pass_through_the_networks(case: Case, toy: SimpleNamespace) -> None:
    net = toy.make_net(norm=True, drop=True)
    method, rows = build(case, net), [0]

    def count(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        rows.append(len(given[0]))

    for network in {net, method.evaluated(net)}:
        network.register_forward_pre_hook(count)
    step = method.step(net, sgd(net), make_batch(toy, method), generator=seeded())
    assert step.samples == sum(rows)


FALLING_BACK = {name: case for name, case in CASES.items() if case.falls_back}


@pytest.mark.parametrize("case", FALLING_BACK.values(), ids=FALLING_BACK)
def test_without_weight_it_is_supervised_only(case: Case, toy: SimpleNamespace) -> None:
    ends = []
    supervised = SemiSupervisedConfig("supervised", labelled=B)
    for config in (supervised, replace(case.config, weight=0.0)):
        net = toy.make_net(tied=True)
        method = build_method(config, net, case.policy)
        train(toy, method, net, sgd(net), seeded(), range(1, 4))
        ends.append(parameters(net))
    # Pseudo-labels come in float32, and with them the sizes of the labelled targets.
    torch.testing.assert_close(*ends, rtol=1e-7, atol=1e-9)
