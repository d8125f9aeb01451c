"""One group measured: every contender's time, operations, memory and accuracy on one bench."""

from __future__ import annotations

import gc
import os
import platform
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

import core
from core.data import Source
from hpo.bench.cost import counting, memory, timing
from hpo.bench.cost.bench import Bench, Case, Setting, build_bench, exact_hypergradient
from hpo.bench.cost.contenders import Contender, Step
from hpo.bench.cost.peers import PACKAGES
from hpo.bench.cost.records import Group, Measurement

T = TypeVar("T")

WARM_UP = 1
"""Repeats of each contender before its operations are counted, which is one more untimed."""

ACCURACY_BATCH = 128
"""Samples at most of the batches that hypergradients are compared on: float64 takes memory."""


def measure(
    case: Case,
    setting: Setting,
    contenders: Sequence[Contender],
    source: Source,
    *,
    data_root: Path | None = None,
    said: Callable[[str], None] = lambda message: None,
) -> Group:
    """Measure all contenders on one case. What raises becomes a row that says why.

    torch's thread count is as before on return.

    Args:
        case, setting: what, and how.
        contenders: plain MixUp, the unit, among them.
        source: the images, those of `setting.dataset`.
        data_root: where the process that measures memory finds them.
        said: told what is being done.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(setting.threads)
    rows = {c.name: Measurement(c.name, c.kind, c.every) for c in contenders}
    parameters = 0
    device = torch.device(setting.device)
    try:
        with memory.bounded(device):
            said(f"{case.label}: {case.train_steps} training steps")
            bench = build_bench(case, setting, source)
            parameters = sum(p.numel() for p in bench.model.parameters())
            _measure(bench, setting, contenders, rows, said, case)
    except Exception as error:  # of the model itself: nobody can be measured on it
        rows = {n: r if r.error else replace(r, error=reason(error)) for n, r in rows.items()}
    finally:
        torch.set_num_threads(threads)
        _release()
    if device.type == "cpu":
        alive = [name for name, row in rows.items() if row.error is None]
        if alive:
            said(f"{case.label}: memory")
        peaks = memory.cpu_peaks(case, setting, alive, data_root) if alive else {}
        rows |= {name: replace(rows[name], peak_bytes=peak) for name, peak in peaks.items()}
    return Group(case, setting, parameters, machine(setting), tuple(rows.values()))


def _measure(
    bench: Bench,
    setting: Setting,
    contenders: Sequence[Contender],
    rows: dict[str, Measurement],
    said: Callable[[str], None],
    case: Case,
) -> None:
    """Fill `rows`; contenders that fail get their reason there."""
    lam = bench.lam
    bench.real_step(core.Interpolation(lam=lam, partner=bench.partner, lam_init=lam))  # momentum
    rewind = bench.rewinder()
    exact, compared = None, bench
    if case.train_steps:
        said(f"{case.label}: the exact hypergradient in float64")
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
        said(f"{case.label}: {name}")
        rewind()
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                step = steps[name] = contender.build(bench)
                repeat = _repeat(step, contender.every)
                for _ in range(WARM_UP):
                    repeat()
                found = _counted(bench, repeat, contender.every)
                rewind()
                if exact is not None and contender.hypergradient is not None:
                    ask = contender.hypergradient(compared)
                    found |= compare(_masked_alike(ask, setting), exact)
            remark = None if contender.kind == "peer" else _remark(caught)
            rows[name] = replace(rows[name], remark=remark, **found)  # type: ignore[arg-type]
        except Exception as error:
            failed(name, error)
    said(f"{case.label}: {setting.repeats} rounds of {len(steps)} contenders")
    gc.collect()
    gc.freeze()  # what lives on is not looked through again before each step
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # told of above
            times = timing.interleaved(
                dict(steps),
                rounds=setting.repeats,
                seed=setting.seed,
                every=every,
                before=rewind,
                synchronize=_synchronize(bench.device),
                on_error=failed,
            )
    finally:
        gc.unfreeze()
    for name, seconds in times.items():
        rows[name] = replace(rows[name], seconds=tuple(seconds))


def _masked_alike(ask: Callable[[], T], setting: Setting) -> T:
    """`ask()` with the random stream where it stands for all: dropout draws one and the same."""
    device = torch.device(setting.device)
    with torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []):
        torch.manual_seed(setting.seed)
        return ask()


def _exact(bench: Bench) -> Tensor | None:
    """The reference, or None where the device cannot hold it."""
    try:
        return exact_hypergradient(bench.double())
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
    """Operations of one step and, on CUDA, memory. A step that cannot be watched still counts."""
    found: dict[str, float | int | None] = {}
    if bench.device.type == "cuda":
        bench.optimizer.zero_grad(set_to_none=True)
        found["peak_bytes"] = memory.cuda_peak(repeat, bench.device)
    try:
        found["flops"] = counting.flops(repeat) / every
    except Exception as error:
        if memory.is_out_of_memory(error):
            raise
        found["flops"] = None
    return found


def compare(found: Tensor, exact: Tensor) -> dict[str, float | int | None]:
    """Relative error (L2) and cosine of a hypergradient [B] against the exact one."""
    found = found.to(exact)
    error = float((found - exact).norm() / exact.norm())
    cosine = float(torch.dot(found, exact) / (found.norm() * exact.norm()))
    return {"relative_error": error, "cosine": cosine}


def reason(error: BaseException, name: str = "") -> str:
    """Why something was not measured, in one line."""
    if isinstance(error, ModuleNotFoundError) and name in PACKAGES:
        return f"not installed: pip install {PACKAGES[name]}"
    if memory.is_out_of_memory(error):
        return "out of memory"
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return f"does not run: {text}"[:200]


def machine(setting: Setting) -> dict[str, str]:
    """Versions and hardware."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        cpu = found[1].strip() if found else cpu
    told: Mapping[str, str] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "cpu": f"{cpu}, {os.cpu_count()} cores",
        "threads": str(setting.threads),
    }
    if setting.device == "cuda":
        told = {**told, "gpu": torch.cuda.get_device_name()}
    return dict(told)


def _remark(caught: Sequence[warnings.WarningMessage]) -> str | None:
    """The first line of the first warning that is meant for users."""
    for warning in caught:
        if issubclass(warning.category, (UserWarning, RuntimeWarning)):
            return str(warning.message).strip().splitlines()[0][:200]
    return None


def _synchronize(device: torch.device) -> Callable[[], None]:
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
