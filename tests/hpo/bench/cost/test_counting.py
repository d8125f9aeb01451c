"""Operations against counts by hand, memory against blocks of known size."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import core
from core.data import load_source
from hpo.bench.cost import memory
from hpo.bench.cost.bench import Case, Setting, build_bench
from hpo.bench.cost.contenders import contenders
from hpo.bench.cost.counting import floor, flops

N, M, IN, HIDDEN, OUT = 12, 5, 7, 11, 3
LINUX = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(IN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, OUT))


def test_a_training_step_of_two_layers_counts_five_products() -> None:
    model, x = two_layers(), torch.randn(N, IN)

    def step() -> None:
        model(x).sum().backward()

    first, second = 2 * N * IN * HIDDEN, 2 * N * HIDDEN * OUT
    # Forward both; backward: weights of both, the input of the second only.
    assert flops(step) == 2 * first + 3 * second


@pytest.mark.parametrize("engine", ["unroll", "double_backward"])
def test_the_hypergradient_of_two_layers_counts_what_the_chain_rule_needs(engine: str) -> None:
    model = two_layers()
    batch = torch.randn(N, IN), torch.randint(OUT, (N,))
    val_batch = torch.randn(M, IN), torch.randint(OUT, (M,))
    lam, partner = torch.rand(N), torch.arange(N).roll(1)

    def run() -> None:
        core.hypergradient(model, batch, val_batch, lam, partner, lr=0.1, engine=engine)  # type: ignore[arg-type]

    first, second = 2 * N * IN * HIDDEN, 2 * N * HIDDEN * OUT
    virtual = 2 * first + 3 * second
    validation = (2 * first + 3 * second) * M // N
    # Each product of the virtual step is differentiated in both factors, but for what depends on
    # neither λ nor a cotangent: at most twice the products; at least once each.
    mixed = flops(run) - virtual - validation
    assert first + second < mixed <= 2 * virtual


def test_it_agrees_with_pytorchs_own_counter_through_convolutions_twice_differentiated() -> None:
    # No module: PyTorch's counter watches modules, and that fails under `autograd.grad`.
    kernel = torch.randn(4, 2, 3, 3, requires_grad=True)
    weight = torch.randn(3, 64, requires_grad=True)
    x = torch.randn(5, 2, 6, 6, requires_grad=True)

    def run() -> None:
        logits = F.conv2d(x, kernel).relu().flatten(1) @ weight.T
        grads = torch.autograd.grad(logits.square().sum(), (kernel, weight), create_graph=True)
        torch.autograd.grad(grads[0].square().sum() + grads[1].square().sum(), x)

    with FlopCounterMode(display=False) as counter:
        run()
    assert flops(run) == counter.get_total_flops() > 0


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    def backward(ctx, up):
        a, b = ctx.saved_tensors
        return up @ b.T, a.T @ up


def test_products_inside_a_custom_function_count_in_every_order() -> None:
    a = torch.randn(4, 5, requires_grad=True)
    b = torch.randn(5, 6, requires_grad=True)

    def run() -> None:
        (grad,) = torch.autograd.grad(_Product.apply(a, b).square().sum(), a, create_graph=True)
        torch.autograd.grad(grad.sum(), b)

    # a·b; its backward computes both factors; the derivative of up·bᵀ in up and in b; and what
    # reaches up = 2ab goes through `backward` once more.
    assert flops(run) == (1 + 2 + 2 + 2) * 2 * 4 * 5 * 6


@pytest.mark.parametrize(
    ("case", "units"),
    [
        (Case("cnn", 28, 1, 32, 25, train_steps=0), 4.39),
        (Case("preact_resnet18", 32, 3, 2, 2, train_steps=0), 4.70),
    ],
    ids=["cnn", "resnet"],
)
def test_whole_steps_count_what_was_counted_independently(case: Case, units: float) -> None:
    """The two ratios were found by another script; they depend on m/n, not on n."""
    bench = build_bench(case, Setting(), load_source("digits"))
    vanilla, unroll = (c.build(bench) for c in contenders(["unroll"]))
    assert flops(unroll) / flops(vanilla) == pytest.approx(units, abs=0.01)


@pytest.mark.parametrize(
    ("n", "m", "units"),
    [(64, 64, 13 / 3), (128, 128, 13 / 3), (100, 50, 11.5 / 3)],
)
def test_the_floor_is_thirteen_passes_against_three(n: int, m: int, units: float) -> None:
    assert floor(n, m) == pytest.approx(units)


HOLDING = """
import torch
from types import SimpleNamespace as S
from hpo.bench.cost.memory import _cpu_peak, _main
def build(bench):
    def step():
        a = torch.ones(16 * 2**18)
        del a
        b = torch.ones(16 * 2**18); c = torch.ones(8 * 2**18)
    return step
model = torch.nn.Linear(2, 2)
bench = S(optimizer=torch.optim.SGD(model.parameters(), lr=1.0))
print(*[_cpu_peak(bench, S(build=build, every=1)) for _ in range(3)], flush=True)
_main()
"""
"""The process of `cpu_peaks`, which first measures a step that holds 24 MiB at once, 40 in all."""


@LINUX
@pytest.mark.slow  # imports take long where glibc gives each block back
def test_the_peak_of_a_step_is_that_of_the_blocks_it_holds_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And everybody asked for has one."""
    said: list[str] = []
    run = subprocess.run

    def holding(command: list[str], **how: Any) -> Any:
        assert command == [sys.executable, "-m", "hpo.bench.cost.memory"]
        done = run([sys.executable, "-c", HOLDING], **how)
        said.extend(done.stdout.splitlines())
        return done

    monkeypatch.setattr(memory.subprocess, "run", holding)
    case = Case("digits_cnn", 8, 1, 256, 256)
    peaks = memory.cpu_peaks(case, Setting(), ["vanilla", "unroll"], None)
    held = [int(word) / 2**20 for word in said[0].split()]
    assert held == pytest.approx([24.0] * 3, abs=1.0)
    assert list(peaks) == ["vanilla", "unroll"]
    # Activations of the mixed batch, each 256·16·8·8 floats or more, are held at once.
    assert peaks["vanilla"] > 256 * 16 * 64 * 4
    assert peaks["unroll"] > 1.5 * peaks["vanilla"]


@LINUX
def test_memory_that_the_machine_cannot_hold_is_refused_and_the_limit_lifted_after() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    with memory.bounded(torch.device("cpu")):
        torch.ones(2**20)
        line = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        assert line is not None
        with pytest.raises(RuntimeError) as caught:
            torch.empty(int(line[1]) * 1000, dtype=torch.uint8)  # the most that is promised
    assert memory.is_out_of_memory(caught.value)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, verdict: bool) -> None:
    assert memory.is_out_of_memory(error) is verdict
