"""This module measures a group: time, operations, memory and accuracy of all on one bench."""

from __future__ import annotations

import gc
import os
import platform
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

import core
from hpo.bench.cost import counting, memory, timing
from hpo.bench.cost.bench import Bench, Case, Setting, build_bench
from hpo.bench.cost.contenders import Contender, Step
from hpo.bench.cost.peers import PACKAGES
from hpo.bench.cost.records import Group, Measurement

if TYPE_CHECKING:
    from core.data import Source

T = TypeVar("T")

ACCURACY_BATCH = 128
"""Samples at most of the batches that hypergradients are compared on: float64 takes memory."""


def measure(
    case: Case,
    setting: Setting,
    contenders: Sequence[Contender],
    source: Source,
    *,
    data_root: Path | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Group:
    """Measures all contenders on one case. What raises becomes a row that says why.

    torch's thread count is as before on return.

    Args:
        case, setting: what, and how.
        contenders: plain MixUp, the unit, among them.
        source: the images, those of `setting.dataset`.
        data_root: where the process that measures memory finds them.
        say: called with what is being done.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(setting.threads)
    rows = {c.name: Measurement(c.name, c.kind, c.every) for c in contenders}
    parameters = 0
    device = torch.device(setting.device)
    try:
        with memory.bounded(device):
            say(f"{case.train_steps} training steps")
            bench = build_bench(case, setting, source)
            parameters = sum(p.numel() for p in bench.model.parameters())
            _measure(bench, setting, contenders, rows, say, case)
    except Exception as error:  # of the model itself: nobody can be measured on it
        rows = {n: r if r.error else replace(r, error=reason(error)) for n, r in rows.items()}
    finally:
        torch.set_num_threads(threads)
        _release()
    if device.type == "cpu":
        alive = [name for name, row in rows.items() if row.error is None]
        if alive:
            say("memory")
        peaks = memory.cpu_peaks(case, setting, alive, data_root) if alive else {}
        rows |= {name: replace(rows[name], peak_bytes=peak) for name, peak in peaks.items()}
    return Group(case, setting, parameters, machine(setting), tuple(rows.values()))


def _measure(
    bench: Bench,
    setting: Setting,
    contenders: Sequence[Contender],
    rows: dict[str, Measurement],
    say: Callable[[str], None],
    case: Case,
) -> None:
    """Fills `rows`; contenders that fail get their reason there."""
    bench.real_step(bench.lam, bench.partner)  # so that there is momentum
    rewind = bench.rewinder()
    exact, compared = None, bench
    if case.train_steps:
        say("the exact hypergradient in float64")
        compared = bench.at_most(ACCURACY_BATCH)
        exact = _masked_alike(lambda: _exact(compared), setting)
    every = {c.name: c.every for c in contenders}
    steps: dict[str, Step] = {}

    def failed(name: str, error: Exception) -> None:
        rows[name] = replace(rows[name], error=reason(error, name), seconds=())
        steps.pop(name, None)
        error.__traceback__ = None  # it holds the graph of the step that failed
        _release()

    for contender in contenders:
        name = contender.name
        say(name)
        rewind()
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                step = steps[name] = contender.build(bench)
                repeat = _repeat(step, contender.every)
                repeat()  # once untimed, beside the one that is counted
                figures = _counted(bench, repeat, contender.every)
                rewind()
                if exact is not None and (ask := contender.hypergradient) is not None:
                    figures |= compare(_masked_alike(partial(ask, compared), setting), exact)
            remark = None if contender.kind == "peer" else _remark(caught)
            rows[name] = replace(rows[name], remark=remark, **figures)  # type: ignore[arg-type]
        except Exception as error:
            failed(name, error)
    say(f"{setting.repeats} rounds of {len(steps)} contenders")
    gc.collect()
    frozen = gc.get_freeze_count()  # by the caller, whose objects stay so
    gc.freeze()  # what lives on is not looked through again before each step

    def settle() -> None:
        rewind()
        gc.collect()  # the cycles that one contender leaves behind are not another's to collect

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarked above
            times = timing.interleaved(
                dict(steps),
                rounds=setting.repeats,
                seed=setting.seed,
                every=every,
                before=settle,
                synchronize=synchronize(bench.device),
                on_error=failed,
            )
    finally:
        if not frozen:
            gc.unfreeze()
    for name, seconds in times.items():
        rows[name] = replace(rows[name], seconds=tuple(seconds))


def _masked_alike(ask: Callable[[], T], setting: Setting) -> T:
    """Calls `ask` with the random stream where it stands for all: dropout draws the same."""
    device = torch.device(setting.device)
    with torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []):
        torch.manual_seed(setting.seed)
        return ask()


def _exact(bench: Bench) -> Tensor | None:
    """Returns the reference [B], float64, or None where the device cannot hold it."""
    try:
        return bench.double().hypergradient(engine="unroll", loss=core.soft_cross_entropy)
    except Exception as error:
        if not memory.is_out_of_memory(error):
            raise
    _release()
    return None


def _repeat(step: Step, every: int) -> Step:
    def repeat() -> None:
        for _ in range(every):
            step()

    return repeat


def _counted(bench: Bench, repeat: Step, every: int) -> dict[str, float | int | None]:
    """Counts operations of one step, if it can be watched, and on CUDA its memory."""
    figures: dict[str, float | int | None] = {}
    if bench.device.type == "cuda":
        bench.optimizer.zero_grad(set_to_none=True)
        figures["peak_bytes"] = memory.cuda_peak(repeat, bench.device)
    try:
        figures["flops"] = counting.flops(repeat) / every
    except Exception as error:
        if memory.is_out_of_memory(error):
            raise
        figures["flops"] = None
    return figures


def compare(computed: Tensor, exact: Tensor) -> dict[str, float | int | None]:
    """Returns relative error (L2) and cosine of a hypergradient [B] against the exact one."""
    computed = computed.to(exact)
    error = float((computed - exact).norm() / exact.norm())
    cosine = float(torch.dot(computed, exact) / (computed.norm() * exact.norm()))
    return {"relative_error": error, "cosine": cosine}


def reason(error: BaseException, name: str = "") -> str:
    """Says in one line why something was not measured."""
    if isinstance(error, ModuleNotFoundError) and name in PACKAGES:
        return f"not installed: pip install {PACKAGES[name]}"
    if memory.is_out_of_memory(error):
        return "out of memory"
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return f"does not run: {text}"[:200]


def machine(setting: Setting) -> dict[str, str]:
    """Returns versions and hardware, for people."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = re.search(r"model name\s*:\s*(.+)", info.read_text())
        cpu = named[1].strip() if named else cpu
    gpu = {"gpu": torch.cuda.get_device_name()} if setting.device == "cuda" else {}
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "cpu": f"{cpu}, {os.cpu_count()} cores",
        "threads": str(setting.threads),
        **gpu,
    }


def _remark(caught: Sequence[warnings.WarningMessage]) -> str | None:
    """Returns the first line of the first warning that is meant for users."""
    for warning in caught:
        if issubclass(warning.category, (UserWarning, RuntimeWarning)):
            return str(warning.message).strip().splitlines()[0][:200]
    return None


def synchronize(device: torch.device) -> Callable[[], None]:
    """Returns what waits for the device."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
