"""This module reads the flags of the cost study."""

from __future__ import annotations

from argparse import ArgumentParser, BooleanOptionalAction
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.data import DATASETS
from hpo.bench.cost.bench import Case, Setting
from hpo.bench.cost.presets import FIT, REPEATS, SKIPPED, cases
from hpo.command_line.flags import chosen_device, command, cores, program, require_counts, shared

if TYPE_CHECKING:
    from hpo.bench.cost.contenders import Contender


@dataclass(frozen=True)
class CostOptions:
    """The options are what a user asked of the study, checked.

    Attributes:
        preset: as named.
        setting: how everything is measured.
        cases, contenders: what, and who.
        output: absolute path of the folder for everything written.
        tracking_uri: of MLflow; None is a SQLite file in the output folder.
        data_root: where data sets lie; None is the default.
        fresh: measure everything again.
        before: absolute path of a working tree of an earlier commit, or None.
    """

    preset: str
    setting: Setting
    cases: tuple[Case, ...]
    contenders: tuple[Contender, ...]
    output: Path
    tracking_uri: str | None
    data_root: Path | None
    fresh: bool
    before: Path | None


def flags(description: str) -> ArgumentParser:
    """Returns the parser of the flags."""
    parser = command(
        program("cost"),
        description,
        shared(preset={"choices": tuple(REPEATS)}),
        shared("output", "tracking_uri", "data_root"),
        shared(
            device={"default": "cpu", "choices": ("auto", "cpu", "cuda"), "help": "default: cpu"},
            threads={"default": None, "help": "CPU threads of torch (default: the cores)"},
            fresh={"help": "measure again what is measured in DIR"},
        ),
    )
    add = parser.add_argument
    names = f"one of {', '.join(DATASETS)}, or folder:PATH (default: digits, enlarged)"
    add("--dataset", default="digits", metavar="NAME", help=names)
    add("--models", metavar="NAME,NAME", help="only these models (default: the preset's)")
    who = "only these, and vanilla; fit means whole epochs (default: all)"
    add("--contenders", metavar="NAME,NAME", help=who)
    add("--repeats", type=int, metavar="N", help="rounds of the timing (default: the preset's)")
    add("--before", type=Path, metavar="DIR", help="whole epochs of this working tree's code too")
    precision = "forward passes under autocast (default: off; bf16 for paper on cuda)"
    add("--autocast", choices=("bf16", "off"), help=precision)
    layout = "memory format of weights and images (default: for paper on cuda)"
    add("--channels-last", action=BooleanOptionalAction, help=layout)
    return parser


def parse(description: str, arguments: Sequence[str] | None = None) -> CostOptions:
    """Reads the command line. Exits with a message on a flag it does not know.

    Raises:
        ValueError: a value is out of range or unknown.
    """
    from hpo.bench.cost.contenders import contenders
    from hpo.bench.cost.earlier import check_tree

    args = flags(description).parse_args(arguments)
    device = chosen_device(args.device)
    require_counts(args, "threads", "repeats")
    named = _listed(args.contenders)
    fits = named is None or FIT in named
    chosen = contenders(None if named is None else [name for name in named if name != FIT])
    if args.contenders is None:
        chosen = [c for c in chosen if c.name not in SKIPPED.get(args.preset, ())]
    fast = args.preset == "paper" and device == "cuda"
    autocast = args.autocast or ("bf16" if fast else "off")
    return CostOptions(
        preset=args.preset,
        setting=Setting(
            dataset=args.dataset,
            device=device,
            threads=args.threads or cores(),
            autocast=None if autocast == "off" else autocast,
            channels_last=fast if args.channels_last is None else args.channels_last,
            repeats=args.repeats or REPEATS[args.preset],
        ),
        cases=tuple(
            case
            for case in cases(args.preset, device, _listed(args.models), fits=fits)
            if named != [FIT] or case.part == FIT
        ),
        contenders=tuple(chosen),
        output=args.output.expanduser().absolute(),
        tracking_uri=args.tracking_uri,
        data_root=args.data_root,
        fresh=args.fresh,
        before=None if args.before is None else check_tree(args.before),
    )


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
