"""Two threads of one process, each with a training of its own, as in Optuna with `n_jobs=2`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import core
from core.user_model.process_wide import ProcessWide, eagerly

Train = Callable[[], Any]


class Attention(nn.Module):
    """Attention over 5 tokens of 2 numbers, whose fused kernel differentiates once."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(2, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.inp(x).chunk(3, dim=2)
        return self.out(F.scaled_dot_product_attention(q, k, v).mean(1))


def net(kind: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Flatten(), nn.Linear(10, 5), nn.Tanh(), nn.Linear(5, 3)
    return Attention() if kind == "attention" else nn.Sequential(*layers)


def training(
    kind: str, seed: int, inside: Callable[[], object], policy: Any = None, **options: Any
) -> Train:
    """Returns two steps, ready to run; `inside` is called at the start of each pass."""
    model = net(kind, seed)
    model.register_forward_pre_hook(lambda *_: (inside(), None)[1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)

    def train() -> list[Tensor]:
        for _ in range(2):
            x, y = torch.randn(9, 5, 2, generator=generator), torch.arange(9) % 3
            batches: Any = (x[:5], y[:5]), (x[5:], y[5:])
            if policy is None:
                core.metamixup_step(model, optimizer, *batches, generator=generator, **options)
            else:
                given = policy(model, optimizer, *batches, generator=generator)
                core.mixed_step(model, optimizer, batches[0], given)
        return [p.detach().clone() for p in model.parameters()]

    return train


def in_threads(*trains: Train) -> list[Any]:
    """Returns what each gave, or the error that ended it."""
    results: list[Any] = [None] * len(trains)

    def run(at: int, train: Train) -> None:
        try:
            results[at] = train()
        except Exception as error:
            results[at] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(trains)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def attention_kernels() -> tuple[bool, bool, bool]:
    cuda = torch.backends.cuda
    return cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()


def test_attention_stays_plain_until_the_last_thread_has_left() -> None:
    """The first thread enters first and leaves first, in the middle of the second one's stage."""
    alone = [training("attention", seed, lambda: None)() for seed in (1, 2)]
    before = attention_kernels()
    assert before[0]  # there is a fused kernel to keep out
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()

    def in_first() -> None:
        first_in.set()
        second_in.wait(20)

    def in_second() -> None:
        second_in.set()
        first_out.wait(20)

    first, second = training("attention", 1, in_first), training("attention", 2, in_second)

    def first_then_out() -> Any:
        result = first()
        first_out.set()
        return result

    def second_when_first_is_in() -> Any:
        first_in.wait(20)
        return second()

    together = in_threads(first_then_out, second_when_first_is_in)
    assert attention_kernels() == before
    for a, b in zip(together, alone, strict=True):
        assert not isinstance(a, Exception), a
        torch.testing.assert_close(a, b)  # the real step meets the other's plain kernel: rounding


@pytest.mark.parametrize("kind", ["forward_reverse", "carried"])
def test_dual_numbers_of_two_threads_wait_for_each_other(kind: str) -> None:
    """Torch has one level of them and raises at a second."""
    started = threading.Event()

    def build(seed: int, inside: Callable[[], object]) -> Train:
        if kind == "forward_reverse":
            return training("tanh", seed, inside, engine="forward_reverse")
        policy = core.policies.CarriedBeta(begin=0.0)
        policy.at(0, 2)
        return training("tanh", seed, inside, policy)

    def second_then() -> Any:
        started.set()
        return second()

    alone = [build(seed, lambda: None)() for seed in (1, 2)]

    def linger() -> None:
        started.wait(20)
        time.sleep(0.02)

    first, second = build(1, linger), build(2, lambda: None)
    together = in_threads(first, second_then)
    for a, b in zip(together, alone, strict=True):
        assert not isinstance(a, Exception), a
        assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_the_stance_of_the_compiler_is_put_back_by_the_last_to_leave() -> None:
    from torch._dynamo import eval_frame

    before = eval_frame._stance.stance
    first, second = eagerly(), eagerly()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert eval_frame._stance.stance == "force_eager"
    second.__exit__(None, None, None)
    assert eval_frame._stance.stance == before


def test_a_setting_that_cannot_be_made_leaves_nobody_inside() -> None:
    def fail() -> Any:
        raise RuntimeError("no")

    setting = ProcessWide(fail)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no"), setting():
            pass
