"""This module measures the memory of a step at its peak, above what is held at rest.

On CUDA it is what the allocator handed out. On a CPU it is resident memory of a fresh process on
Linux, which asks the C library to give each larger block back to the system at once: without that,
what it holds in reserve makes the figure vary by a tenth from run to run (with it, by less than a
thousandth), and with it, steps take up to three times as long, so never in the process that times.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from hpo.bench.cost.bench import Bench, Case, Setting, build_bench
from hpo.bench.cost.contenders import Contender, contenders

_PROC = Path("/proc/self")
_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_MMAP_MAX_": "1000000"}
"""Under this environment glibc gives blocks of 64 KiB and more back to the system."""


def cuda_peak(run: Callable[[], None], device: torch.device) -> int:
    """Returns the bytes that `run` had allocated at its peak, above those before it."""
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    rest = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - rest


def cpu_peaks(
    case: Case, setting: Setting, names: Sequence[str], data_root: Path | None
) -> dict[str, int]:
    """Returns the bytes at the peak of a step by contender, measured in a process of its own.

    Contenders that fail there have no entry; nothing has, where this is not Linux.
    """
    if not (_PROC / "clear_refs").exists():
        return {}
    task = {
        "case": dataclasses.asdict(dataclasses.replace(case, train_steps=0)),
        "setting": dataclasses.asdict(setting),
        "names": list(names),
        "data_root": None if data_root is None else str(data_root),
    }
    done = subprocess.run(
        [sys.executable, "-m", "hpo.bench.cost.memory"],
        input=json.dumps(task),
        env={**os.environ, **_BLOCKS},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,  # a process that the system ended has printed those before
    )
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))


@contextlib.contextmanager
def bounded(device: torch.device) -> Iterator[None]:
    """Makes allocations on the CPU raise that this machine cannot hold.

    Linux would promise the memory, and end the process once it is used. Elsewhere nothing is done.
    """
    if device.type != "cpu" or not (_PROC / "status").exists():
        yield
        return
    import resource

    line = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    available = int(line[1]) * 1024 if line else 2**62
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _status("VmData") + int(0.9 * available)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether the error says that memory ran out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    signs = ("can't allocate memory", "out of memory", "bad_alloc", "not enough memory")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


def _main() -> None:
    """Runs the process of `cpu_peaks`: a task on standard input, a line for each contender."""
    from core.data import load_source

    task: dict[str, Any] = json.load(sys.stdin)
    case, setting = Case(**task["case"]), Setting(**task["setting"])
    root = None if task["data_root"] is None else Path(task["data_root"])
    torch.set_num_threads(setting.threads)
    with bounded(torch.device("cpu")):
        bench = build_bench(case, setting, load_source(setting.dataset, root=root))
        for contender in contenders(task["names"]):
            if contender.name in task["names"]:
                with contextlib.suppress(Exception):
                    print(json.dumps([contender.name, _cpu_peak(bench, contender)]), flush=True)


def _cpu_peak(bench: Bench, contender: Contender) -> int:
    contender.build(bench)()  # libraries set up what they keep, and momentum is there
    step = contender.build(bench)  # what acts at every k-th step acts at the first
    bench.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    (_PROC / "clear_refs").write_text("5")  # the high-water mark is what is resident now
    rest = _status("VmRSS")
    step()
    return max(0, _status("VmHWM") - rest)


def _status(name: str) -> int:
    """Returns the bytes of a line of /proc/self/status."""
    line = re.search(rf"^{name}:\s+(\d+) kB", (_PROC / "status").read_text(), re.MULTILINE)
    if line is None:
        raise OSError(f"/proc/self/status has no line {name}")
    return int(line[1]) * 1024


if __name__ == "__main__":
    _main()
