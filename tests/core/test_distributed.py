"""Two processes that train one model, against one process on the joined batch.

The file is its own worker: `python test_distributed.py RANK FOLDER` is one of the two processes. It
runs every set-up and leaves what came out in the folder; the tests compare.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from core.meta import stage
from core.meta.engines.compiled import CompileFallback
from core.meta.gradient import hypergradient
from core.meta.reading import Reading
from core.meta.validation_gradient import ValidationGradient
from core.metamixup import learn_interpolation, metamixup_step
from core.mixing import pairing
from core.mixing.real_step import mixed_step
from core.policies import (
    AdaMixUp,
    EvolvedBeta,
    LearnedBeta,
    LearningToReweight,
    MetaWeightNet,
    PersistentScores,
    PersistentWeights,
)
from core.policies import learned_beta as beta
from core.testing.policy_contract import refusal
from core.testing.small_network import warm_up

RANKS, SHARE, SHARE_VAL, CLASSES = 2, 6, 4, 3
ENGINES = ("double_backward", "forward_reverse", "finite_difference", "compiled")
INNER = ("plain", "momentum", "adamw")
READINGS = {
    "rms": Reading(),
    "sum": Reading(scale="sum"),
    "mean": Reading(scale="mean", projection="clip", gradient="lam", step_size=20.0),
    "twice": Reading(meta_steps=2, inner_step="optimizer"),
}
Results = dict[str, Any]

pytestmark = pytest.mark.slow


class Net(nn.Module):
    """conv, tanh, mean over pixels, linear; optionally BatchNorm, and a layer for light inputs."""

    def __init__(self, norm: bool = False, sometimes: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(2, 5, 3)
        self.norm = nn.BatchNorm2d(5) if norm else nn.Identity()
        self.sometimes = nn.Linear(5, 5) if sometimes else None
        self.out = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.norm(self.conv(x))).mean((2, 3))
        if self.sometimes is not None and float(x.detach().mean()) > 0:
            h = torch.tanh(self.sometimes(h))
        logits: Tensor = self.out(h)
        return logits


def make_net(dtype: torch.dtype = torch.float64, **options: bool) -> Net:
    torch.manual_seed(0)
    return Net(**options).to(dtype)


def make_data(
    rank: int | None, step: int = 0, dtype: torch.dtype = torch.float64, shift: float = 0.0
) -> dict[str, Any]:
    """batch, val_batch, lam, partner: the share of a rank, or the joined ones for None.

    `shift` moves the mean of the inputs up on rank 1 and down on rank 0.
    """
    g = torch.Generator().manual_seed(100 + step)
    shares = []
    for r in range(RANKS):
        x = torch.randn(SHARE + SHARE_VAL, 2, 5, 5, generator=g, dtype=torch.float64)
        x = (x + (shift if r else -shift)).to(dtype)
        y = torch.randint(CLASSES, (SHARE + SHARE_VAL,), generator=g)
        lam = 0.05 + 0.9 * torch.rand(SHARE, generator=g, dtype=torch.float64).to(dtype)
        shares.append((x, y, lam, torch.randperm(SHARE, generator=g)))
    if rank is None:
        x, y = (
            torch.cat([s[i][:SHARE] for s in shares] + [s[i][SHARE:] for s in shares])
            for i in (0, 1)
        )
        n = RANKS * SHARE
        lam = torch.cat([s[2] for s in shares])
        partner = torch.cat([s[3] + SHARE * r for r, s in enumerate(shares)])
    else:
        x, y, lam, partner = shares[rank]
        n = SHARE
    return {"batch": (x[:n], y[:n]), "val_batch": (x[n:], y[n:]), "lam": lam, "partner": partner}


def optimizer_of(kind: str, model: nn.Module) -> torch.optim.Optimizer:
    if kind == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=0.03, eps=1e-3)
    return torch.optim.SGD(
        model.parameters(), lr=0.3, momentum=0.9 if kind == "momentum" else 0.0, weight_decay=0.01
    )


def parameters(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def watch(net: nn.Module) -> list[list[Tensor]]:
    """Returns the parameters of `net` in each of its passes from now on."""
    seen: list[list[Tensor]] = []

    def look(module: nn.Module, args: object) -> None:
        seen.append(parameters(module))

    net.register_forward_pre_hook(look)
    return seen


def compile_(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


# Each set-up runs on every rank with `wrap` = DistributedDataParallel, and in one process with
# rank None and `wrap` = identity.
Wrap = Callable[..., nn.Module]


def hypergradients(rank: int | None, wrap: Wrap) -> Results:
    results = {}
    for dtype in (torch.float64, torch.float32):
        for inner in INNER:
            net = make_net(dtype)
            model = wrap(net)
            optimizer = optimizer_of(inner, net)
            warm_up(net, optimizer)
            step: dict[str, Any] = {"lr": 0.3} if inner == "plain" else {"optimizer": optimizer}
            data = make_data(rank, dtype=dtype)
            exact = dtype == torch.float32 or rank is None
            for engine in ("double_backward",) if exact else ENGINES:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", CompileFallback)
                    value = hypergradient(model, **data, **step, engine=engine)  # type: ignore[arg-type]
                results[f"{inner} {engine} {dtype}"] = value
    return results


def interpolations(rank: int | None, wrap: Wrap) -> Results:
    results: Results = {}
    for name, reading in READINGS.items():
        net = make_net()
        given = learn_interpolation(
            wrap(net), **make_data(rank), reading=reading, optimizer=optimizer_of("momentum", net)
        )
        results[name] = torch.stack([given.lam, given.lam_init, given.change])  # type: ignore[list-item]
        results[f"{name} meta_loss"] = given.meta_loss
    return results


def trainings(rank: int | None, wrap: Wrap) -> Results:
    """Three steps; the parameters after each, and those that every pass saw."""
    results: Results = {}
    for inner in ("gradient_descent", "optimizer"):
        for kind in ("momentum", "adamw"):
            net = make_net()
            model = wrap(net)
            optimizer = optimizer_of(kind, net)
            seen = watch(net)
            after = []
            for step in range(3):
                metamixup_step(
                    model,
                    optimizer,
                    **make_data(rank, step),
                    reading=Reading(inner_step=inner),
                )
                after.append(parameters(net))
            results[f"{inner} {kind}"] = {"after": after, "seen": seen}
    return results


def kept_validation_gradient(rank: int | None, wrap: Wrap) -> Results:
    net = make_net()
    model, carried = wrap(net), ValidationGradient(2)
    optimizer = optimizer_of("momentum", net)
    for step in range(3):
        data = make_data(rank, step)
        metamixup_step(model, optimizer, **data, validation_gradient=carried, last_blocks=1)
    return {"after": parameters(net)}


def accumulation(rank: int | None, wrap: Wrap) -> Results:
    net = make_net()
    model = wrap(net)
    optimizer = optimizer_of("momentum", net)
    after = []
    for step in range(4):
        first = step % 2 == 0
        inside = model.no_sync() if first and rank is not None else contextlib.nullcontext()  # type: ignore[operator]
        with inside:
            metamixup_step(
                model,
                optimizer,
                **make_data(rank, step),
                micro_batch=(step % 2, 2),
                clip_grad_norm=0.05 if step > 1 else None,
            )
        after.append(parameters(net))
    return {"after": after}


def placebo(rank: int | None, wrap: Wrap) -> Results:
    results = {}
    reading = Reading(scale="rms", projection="clip", gradient="lam", step_size=0.01)
    for permute in (False, True):
        given = learn_interpolation(
            wrap(make_net()),
            **make_data(rank),
            lr=0.3,
            reading=reading,
            permute=permute,
            generator=torch.Generator().manual_seed(3),
        )
        results[f"permuted {permute}"] = given.change
    return results


def scores(rank: int | None, wrap: Wrap) -> Results:
    """Three steps whose samples go from rank to rank; rank 1 sees further than rank 0, and at the
    last step, between two stages, the other way round."""
    results: Results = {"lam": [], "scores": []}
    for every in (1, 2):
        net = make_net()
        model, optimizer = wrap(net), optimizer_of("plain", net)
        policy = PersistentScores(every=every)
        for step in range(4):
            data, g = make_data(rank, step), torch.Generator().manual_seed(step)
            # Up to 4 on one rank and 20 on the other, joined in this order.
            shares = [torch.randint(8, (SHARE,), generator=g) + 12 * ((r + step) % 2)
                      for r in range(RANKS)]  # fmt: skip
            indices = torch.cat(shares) if rank is None else shares[rank]
            lam, partner = data.pop("lam"), data.pop("partner")
            with (
                mock.patch.object(stage, "draw_beta", lambda *_, lam=lam, **__: lam),
                mock.patch.object(pairing, "draw_partners", lambda *_, p=partner, **__: p),
            ):
                given = policy(model, optimizer, **data, indices=indices)
            metamixup_step(model, optimizer, **make_data(rank, step))
            results["lam"].append(given.lam)
            results["scores"].append(policy.scores)
    return results


def learned_beta(rank: int | None, wrap: Wrap) -> Results:
    """Log α after three stages, each on noise and pairs of the joined batch."""
    net = make_net()
    model, optimizer = wrap(net), optimizer_of("plain", net)
    policy = LearnedBeta(begin=0.0, every=1, reach=30.0)
    policy.at(0, 30)
    results: Results = {"lam": [], "alpha": []}
    for step in range(3):
        data, g = make_data(rank, step), torch.Generator().manual_seed(step)
        noise = torch.rand(2, RANKS * SHARE, generator=g, dtype=torch.float64)
        noise = noise if rank is None else noise[:, rank * SHARE : (rank + 1) * SHARE]
        partner = data.pop("partner")
        del data["lam"]
        with (
            mock.patch.object(beta, "draw_noise", lambda *_, noise=noise, **__: noise),
            mock.patch.object(pairing, "draw_partners", lambda *_, p=partner, **__: p),
        ):
            results["lam"].append(policy(model, optimizer, **data).lam)
        results["alpha"].append(torch.tensor(policy.present_alpha))
        metamixup_step(model, optimizer, **make_data(rank, step))
    return results


def weights(rank: int | None, wrap: Wrap) -> Results:
    """Three steps of each policy that weights samples; a network of its own begins otherwise on
    each rank, but for the mean of both."""
    results: Results = {"lam": []}
    indices = torch.arange(RANKS * SHARE).view(RANKS, SHARE)
    for make in (LearningToReweight, MetaWeightNet, PersistentWeights):
        net = make_net()
        model, optimizer = wrap(net), optimizer_of("plain", net)
        torch.manual_seed(0)
        policy = make()
        if isinstance(policy, MetaWeightNet):
            policy.network.double()
            with torch.no_grad():
                for p in policy.network.parameters():
                    p += 0 if rank is None else 0.1 * (-1) ** rank
        for step in range(3):
            data = make_data(rank, step)
            del data["lam"], data["partner"]
            ours = indices.flatten() if rank is None else indices[rank]
            given = policy(model, optimizer, **data, indices=ours)
            results["lam"].append(given.weights)
            mixed_step(model, optimizer, data["batch"], given)
    return results


def wrapped_twice(rank: int | None, wrap: Wrap) -> Results:
    """Three steps with `torch.compile` and the wrapper in both orders, and alone."""

    orders: dict[str, Callable[[nn.Module], Any]] = {
        "alone": wrap,
        "outside": lambda net: compile_(wrap(net)),
        "inside": lambda net: wrap(compile_(net)),
    }
    results: Results = {}
    for name, order in orders.items():
        net = make_net()
        model, optimizer = order(net), optimizer_of("momentum", net)
        for step in range(3):
            metamixup_step(model, optimizer, **make_data(rank, step))
        results[name] = parameters(net)
    return results


# These run on two ranks only.


def own_statistics(rank: int) -> Results:
    net = make_net(norm=True)
    model, optimizer = DistributedDataParallel(net), optimizer_of("momentum", net)
    seen = watch(net)
    for step in range(3):
        metamixup_step(model, optimizer, **make_data(rank, step))
    return {"after": parameters(net), "seen": seen}


def used_on_one_rank(rank: int) -> Results:
    """Returns a layer that only the batches of rank 1 go through, moved by the optimizer's own
    step."""
    net = make_net(sometimes=True)
    model = DistributedDataParallel(net, find_unused_parameters=True)
    optimizer = optimizer_of("momentum", net)
    warm_up(net, optimizer)
    seen = watch(net)
    data = make_data(rank, shift=3.0)
    metamixup_step(model, optimizer, **data, reading=Reading(inner_step="optimizer"))
    return {"after": parameters(net), "seen": seen}


def evolved(rank: int) -> Results:
    """Four stages, for which each rank draws by itself; a layer is used on rank 1 alone."""
    net = make_net(sometimes=True)
    model = DistributedDataParallel(net, find_unused_parameters=True)
    optimizer, generator = optimizer_of("momentum", net), torch.Generator().manual_seed(rank)
    policy = evolved_beta()
    policy.at(0, 20)
    for step in range(5):
        data = make_data(rank, step, shift=3.0)
        given = policy(model, optimizer, data["batch"], data["val_batch"], generator=generator)
        mixed_step(model, optimizer, data["batch"], given)
    return {"path": policy.metrics(), "particles": policy.state_dict()["particles"]}


def seeded_alike(rank: int) -> Results:
    """What is drawn for all ranks, where each was given the same seed."""
    net, data = make_net(), make_data(rank)
    model, optimizer = DistributedDataParallel(net), optimizer_of("plain", net)

    def told(policy: Any, seed: int) -> Any:
        policy.at(0, 20)
        generator = torch.Generator().manual_seed(seed)
        policy(model, optimizer, data["batch"], data["val_batch"], generator=generator)
        return policy

    def up(placebo: bool, seed: int) -> bool:
        policy = told(LearnedBeta(begin=0.0, every=1, placebo=placebo), seed)
        return bool(policy.present_alpha > 1)

    return {
        "turned": [up(False, seed) != up(True, seed) for seed in range(12)],
        "noise": [told(evolved_beta(), seed).state_dict()["noise"] for seed in range(2)],
    }


def evolved_beta() -> EvolvedBeta:
    return EvolvedBeta(begin=0.0, every=1, average_over=1)


def overflow_beside_a_kept_gradient(rank: int) -> Results:
    """The hypergradient of rank 1 overflows in the second of four stages, which uses a kept v."""
    net = make_net(torch.float32)
    model, optimizer, kept = DistributedDataParallel(net), optimizer_of("plain", net), []
    carried = ValidationGradient(2)
    for step in range(4):
        data = make_data(rank, step, dtype=torch.float32)
        if step == 1 and rank == 1:
            data["batch"] = (data["batch"][0] * float("inf"), data["batch"][1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # that it was not finite
            learn_interpolation(model, **data, optimizer=optimizer, validation_gradient=carried)
        kept.append(carried.state_dict()["age"])
    return {"age": kept}


def overflow_on_one_rank(rank: int) -> Results:
    """Losses scaled in float16, beyond its range on rank 1 alone."""
    net = make_net(torch.float32)
    model, optimizer = DistributedDataParallel(net), optimizer_of("momentum", net)
    before = parameters(net)
    data = make_data(rank, dtype=torch.float32)
    if rank == 1:
        data["batch"] = (data["batch"][0] * 3e4, data["batch"][1])
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    result = metamixup_step(model, optimizer, **data, autocast=torch.float16, scaler=scaler)
    return {
        "before": before,
        "after": parameters(net),
        "scale": scaler.get_scale(),
        "finite": bool(result.hypergradient.isfinite().all()),  # type: ignore[union-attr]
        "lam": result.lam,
    }


def refusals(rank: int) -> Results:
    data = make_data(rank)
    results = {}

    def learn(model: nn.Module, **options: Any) -> Callable[[], object]:
        return lambda: learn_interpolation(model, **data, lr=0.1, **options)

    model = DistributedDataParallel(make_net(norm=True))
    results["unroll"] = refusal(learn(model, engine="unroll"))
    # Wrapped first: on a CPU the wrapper itself refuses the layer, which nobody runs here.
    synchronised = DistributedDataParallel(make_net(norm=True))
    synchronised.module.norm = nn.SyncBatchNorm(5).double()
    results["sync"] = refusal(learn(synchronised))
    results["sync, compiled"] = refusal(learn(compile_(synchronised)))
    results["sync, bare"] = refusal(learn(synchronised.module))
    synchronised.module.norm.eval()
    learn(synchronised)()  # in evaluation mode it exchanges nothing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        results |= sharded(learn)
    with pytest.warns(CompileFallback, match="several ranks exchange gradients"):
        learn(DistributedDataParallel(make_net()), engine="compiled")()
    results["adamixup"] = refusal(lambda: adamixup_step(data["batch"]))
    return results


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(50, CLASSES).double()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x.flatten(1))
        return logits


def adamixup_step(batch: Any) -> object:
    net, policy = DistributedDataParallel(Flat()), AdaMixUp(Flat(), discriminator=False)
    optimizer = torch.optim.SGD([*net.parameters(), *policy.parameters()], lr=0.1)
    return policy(net, optimizer, batch)


def sharded(learn: Callable[..., Callable[[], object]]) -> dict[str, str]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import Replicate, distribute_tensor

    mesh = init_device_mesh("cpu", (RANKS,))
    replicated = make_net()
    weight = distribute_tensor(replicated.out.weight.detach(), mesh, [Replicate()])
    replicated.out.weight = nn.Parameter(weight)
    results = {
        "DTensor": refusal(learn(replicated)),
        "FSDP": refusal(learn(FullyShardedDataParallel(make_net(), device_id=torch.device("cpu")))),
    }
    with contextlib.suppress(ImportError):  # torch 2.6 and later
        from torch.distributed.fsdp import fully_shard

        results["fully_shard"] = refusal(learn(fully_shard(make_net(), mesh=mesh)))
    return results


SHARED = (
    hypergradients,
    interpolations,
    trainings,
    kept_validation_gradient,
    accumulation,
    placebo,
    scores,
    learned_beta,
    weights,
    wrapped_twice,
)
RANKS_ONLY = (
    own_statistics,
    used_on_one_rank,
    evolved,
    seeded_alike,
    overflow_on_one_rank,
    overflow_beside_a_kept_gradient,
    refusals,
)


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS)
    results: Results = {f.__name__: f(rank, DistributedDataParallel) for f in SHARED}
    results |= {f.__name__: f(rank) for f in RANKS_ONLY}
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    """Returns what came out on each rank."""
    folder = tmp_path_factory.mktemp("ranks")
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        )
        for rank in range(RANKS)
    ]
    try:
        said = [worker.communicate(timeout=300)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert [worker.returncode for worker in workers] == [0] * RANKS, "\n".join(said)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@functools.cache
def alone(setup: Callable[..., Results]) -> Results:
    return setup(None, lambda net: net)


def off(value: Tensor, truth: Tensor) -> float:
    return float((value - truth).norm() / truth.norm())


def furthest(values: list[Tensor], truths: list[Tensor]) -> float:
    return max(off(a, b) for a, b in zip(values, truths, strict=True))


def same_bits(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    return len(a) == len(b) and all(map(same_bits, a, b))


def test_hypergradient_is_that_of_the_joined_batch(ranks: list[Results]) -> None:
    truths = alone(hypergradients)
    shares = [r["hypergradients"] for r in ranks]
    assert len(shares[0]) == 3 * (len(ENGINES) + 1)
    for name in shares[0]:
        inner, engine, dtype = name.split()
        truth = truths[f"{inner} double_backward {dtype}"]
        value = torch.cat([share[name] for share in shares])
        assert value.dtype == truth.dtype
        approximate = dtype == "torch.float32" or engine == "finite_difference"
        assert off(value, truth) < (1e-6 if approximate else 1e-12), name


def test_lambda_is_that_of_the_joined_batch(ranks: list[Results]) -> None:
    truths = alone(interpolations)
    per_rank = [r["interpolations"] for r in ranks]
    for name in READINGS:
        value, truth = torch.cat([f[name] for f in per_rank], dim=1), truths[name]
        torch.testing.assert_close(value, truth, rtol=1e-9, atol=1e-12)
        assert float(truth[2].abs().max()) > 1e-3, name
        torch.testing.assert_close(per_rank[0][f"{name} meta_loss"], truths[f"{name} meta_loss"])
        assert torch.equal(per_rank[0][f"{name} meta_loss"], per_rank[1][f"{name} meta_loss"])


def test_training_is_that_of_the_joined_batch_and_virtual_steps_are_shared(
    ranks: list[Results],
) -> None:
    for name, truth in alone(trainings).items():
        first, second = (r["trainings"][name] for r in ranks)
        assert same_bits(first["after"], second["after"]), name
        assert same_bits(first["seen"], second["seen"]), name
        assert len(first["seen"]) == len(truth["seen"]) == 9
        for step in range(3):
            assert furthest(first["after"][step], truth["after"][step]) < 1e-10, (name, step)
            virtual, validation, real = first["seen"][3 * step : 3 * step + 3]
            assert same_bits(virtual, real)
            assert not same_bits(virtual, validation)
            assert furthest(validation, truth["seen"][3 * step + 1]) < 1e-10, (name, step)


@pytest.mark.parametrize("setup", [kept_validation_gradient, accumulation])
def test_options_are_those_of_the_joined_batch(
    setup: Callable[..., Results], ranks: list[Results]
) -> None:
    truth = alone(setup)["after"]
    per_rank = [r[setup.__name__]["after"] for r in ranks]
    assert same_bits(per_rank[0], per_rank[1])
    if setup is accumulation:
        start = parameters(make_net())
        assert same_bits(per_rank[0][0], start)
        assert not same_bits(per_rank[0][1], start)
        for i in range(4):
            assert furthest(per_rank[0][i], truth[i]) < 1e-10
    else:
        assert furthest(per_rank[0], truth) < 1e-10


def test_alpha_is_learned_from_the_joined_batch(ranks: list[Results]) -> None:
    truth, per_rank = alone(learned_beta), [r["learned_beta"] for r in ranks]
    for i, alpha in enumerate(truth["alpha"]):
        assert same_bits(per_rank[0]["alpha"][i], per_rank[1]["alpha"][i])
        assert abs(float(alpha) - 1) > 0.01
        torch.testing.assert_close(per_rank[0]["alpha"][i], alpha, rtol=1e-6, atol=0)
        lam = torch.cat([f["lam"][i] for f in per_rank])
        torch.testing.assert_close(lam, truth["lam"][i], rtol=1e-6, atol=1e-7)


def test_scores_are_those_of_the_joined_batch(ranks: list[Results]) -> None:
    truth, per_rank = alone(scores), [r["scores"] for r in ranks]
    for i, lam in enumerate(truth["lam"]):
        # Scores are kept in float32.
        torch.testing.assert_close(
            torch.cat([f["lam"][i] for f in per_rank]), lam, rtol=1e-5, atol=1e-6
        )
        learned = i < 4 or i % 2 == 0
        if learned:
            assert same_bits(per_rank[0]["scores"][i], per_rank[1]["scores"][i])
        for f in per_rank:
            ours, joined = f["scores"][i], truth["scores"][i]
            assert len(ours) == len(joined) or not learned
            torch.testing.assert_close(ours, joined[: len(ours)], rtol=1e-5, atol=1e-5)
            assert not joined[len(ours) :].any()
    assert float(truth["scores"][-1].abs().max()) > 0.5


def test_weights_are_those_of_the_joined_batch(ranks: list[Results]) -> None:
    truth, per_rank = alone(weights), [r["weights"] for r in ranks]
    for i, expected in enumerate(truth["lam"]):
        joined = torch.cat([f["lam"][i] for f in per_rank])
        torch.testing.assert_close(joined, expected, rtol=1e-5, atol=1e-6)
    assert any(bool((w == 0).any()) for w in truth["lam"][:3])  # of Learning to Reweight


def test_placebo_permutes_within_each_rank(ranks: list[Results]) -> None:
    for r in ranks:
        change = r["placebo"]
        plain, permuted = change["permuted False"], change["permuted True"]
        assert not torch.allclose(plain, permuted)
        torch.testing.assert_close(plain.sort().values, permuted.sort().values)


def test_compiled_models_inside_and_outside(ranks: list[Results]) -> None:
    truth = alone(wrapped_twice)["alone"]
    for name in ("alone", "outside", "inside"):
        per_rank = [r["wrapped_twice"][name] for r in ranks]
        assert same_bits(per_rank[0], per_rank[1]), name
        assert furthest(per_rank[0], truth) < 1e-10, name


def test_batch_norm_of_each_ranks_own_statistics(ranks: list[Results]) -> None:
    per_rank = [r["own_statistics"] for r in ranks]
    assert same_bits(per_rank[0]["after"], per_rank[1]["after"])
    assert same_bits(per_rank[0]["seen"], per_rank[1]["seen"])
    assert all(bool(p.isfinite().all()) for p in per_rank[0]["after"])


def test_a_layer_that_one_rank_uses_moves_on_both(ranks: list[Results]) -> None:
    per_rank = [r["used_on_one_rank"] for r in ranks]
    assert same_bits(per_rank[0]["seen"], per_rank[1]["seen"])
    assert same_bits(per_rank[0]["after"], per_rank[1]["after"])
    before, ahead, _ = per_rank[0]["seen"]
    assert not any(torch.equal(a, b) for a, b in zip(before, ahead, strict=True))


def test_particles_evolve_alike_on_both_ranks(ranks: list[Results]) -> None:
    first, second = (found["evolved"] for found in ranks)
    assert first["path"] == second["path"]
    assert first["path"]["alpha_start"] != 1
    for one, other in zip(first["particles"], second["particles"], strict=True):
        assert one["model"].keys() == other["model"].keys()
        assert all(same_bits(value, other["model"][key]) for key, value in one["model"].items())


def test_ranks_of_one_seed_share_draws_as_one_process_has_them(ranks: list[Results]) -> None:
    """A placebo turns the sign of some stages, and noise is as wide as sigma."""
    first, second = (found["seeded_alike"] for found in ranks)
    assert first == second
    assert {*first["turned"]} == {False, True}
    for seed, noise in enumerate(first["noise"]):
        policy, net, data = evolved_beta(), make_net(), make_data(0)
        policy.at(0, 20)
        optimizer, generator = optimizer_of("plain", net), torch.Generator().manual_seed(seed)
        policy(net, optimizer, data["batch"], data["val_batch"], generator=generator)
        assert noise == policy.state_dict()["noise"]


def test_overflow_beside_a_kept_gradient_counts_the_same_stages(ranks: list[Results]) -> None:
    """Or one rank would average what the other does not, and both wait for ever."""
    for found in ranks:
        assert found["overflow_beside_a_kept_gradient"]["age"] == [1, 1, 2, 1]


def test_overflow_on_one_rank_stops_the_step_on_both(ranks: list[Results]) -> None:
    per_rank = [r["overflow_on_one_rank"] for r in ranks]
    assert not per_rank[1]["finite"]
    for r in per_rank:
        assert r["scale"] == 2.0**13
        assert same_bits(r["before"], r["after"])
        assert bool(r["lam"].isfinite().all())


def test_refusals(ranks: list[Results]) -> None:
    for r in ranks:
        said = dict(r["refusals"])
        assert said.pop("unroll") == (
            'engine "unroll" cannot work with several ranks; use engine="auto"'
        )
        assert "drift apart; train in one process, or with another" in said.pop("adamixup")
        for name in ("sync", "sync, compiled", "sync, bare"):
            text = said.pop(name)
            assert "SyncBatchNorm, which has no double backward; use BatchNorm" in text, name
            assert "norm'" in text
        assert len(said) >= 2
        for name, text in said.items():
            assert "are split over processes" in text, name
            assert "use DistributedDataParallel" in text, name


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
