"""The flags of the cost study."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from core.data import DATASETS
from hpo.bench.cost.bench import Case, Setting
from hpo.bench.cost.contenders import Contender, contenders
from hpo.bench.cost.presets import REPEATS, SKIPPED, cases


@dataclass(frozen=True)
class CostOptions:
    """What a user asked of the study, checked.

    Attributes:
        preset: as named.
        setting: how everything is measured.
        cases, contenders: what, and who.
        output: absolute path of the folder for everything written.
        tracking_uri: of MLflow; None is a SQLite file in the output folder.
        data_root: where data sets lie; None is the default.
        fresh: measure everything again.
    """

    preset: str
    setting: Setting
    cases: tuple[Case, ...]
    contenders: tuple[Contender, ...]
    output: Path
    tracking_uri: str | None
    data_root: Path | None
    fresh: bool


def parse(description: str, arguments: Sequence[str] | None = None) -> CostOptions:
    """Read the command line. Exits with a message on a flag it does not know.

    Raises:
        ValueError: a value is out of range or unknown.
    """
    parser = argparse.ArgumentParser(
        prog="studies/cost.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    names = f"one of {', '.join(DATASETS)}, or folder:PATH (default: digits, enlarged)"
    add("--dataset", default="digits", metavar="NAME", help=names)
    add("--preset", default="quick", choices=tuple(REPEATS), help="default: quick")
    add("--models", metavar="NAME,NAME", help="only these models (default: the preset's)")
    add("--contenders", metavar="NAME,NAME", help="only these, and vanilla (default: all)")
    add("--repeats", type=int, metavar="N", help="rounds of the timing (default: the preset's)")
    add("--threads", type=int, metavar="N", help="CPU threads of torch (default: the cores)")
    add("--output", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    store = "MLflow store (default: MLFLOW_TRACKING_URI, else DIR/mlflow.db)"
    add("--tracking-uri", metavar="URI", help=store)
    add("--device", default="cpu", choices=("cpu", "cuda"), help="default: cpu")
    precision = "forward passes under autocast (default: off; bf16 for paper on cuda)"
    add("--autocast", choices=("bf16", "off"), help=precision)
    layout = "memory format of weights and images (default: for paper on cuda)"
    add("--channels-last", action=argparse.BooleanOptionalAction, help=layout)
    add("--data-root", type=Path, metavar="DIR", help="data sets in torchvision's layout")
    add("--fresh", action="store_true", help="measure again what is measured in DIR")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device here; use --device cpu")
    threads = args.threads if args.threads is not None else cores()
    repeats = args.repeats if args.repeats is not None else REPEATS[args.preset]
    for flag, value in (("--threads", threads), ("--repeats", repeats)):
        if value < 1:
            raise ValueError(f"{flag} must be at least 1, got {value}")
    chosen = contenders(_listed(args.contenders))
    if args.contenders is None:
        chosen = [c for c in chosen if c.name not in SKIPPED.get(args.preset, ())]
    fast = args.preset == "paper" and args.device == "cuda"
    autocast = args.autocast or ("bf16" if fast else "off")
    return CostOptions(
        preset=args.preset,
        setting=Setting(
            dataset=args.dataset,
            device=args.device,
            threads=threads,
            autocast=None if autocast == "off" else autocast,
            channels_last=fast if args.channels_last is None else args.channels_last,
            repeats=repeats,
        ),
        cases=tuple(cases(args.preset, args.device, _listed(args.models))),
        contenders=tuple(chosen),
        output=args.output.expanduser().absolute(),
        tracking_uri=args.tracking_uri,
        data_root=args.data_root,
        fresh=args.fresh,
    )


def cores() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
