"""Every table and figure of the paper by one command, and one page that shows them all.

Runs the studies of this folder one after another with one preset, then writes `reproduction.html`,
a single file with all tables and pictures in it, and `reproduction.md`. The paper's numbers stand
beside ours in the tables; what it says of a figure stands above it.

Presets: `smoke` is for CI: digits, one seed, numbers that mean nothing. `quick` is Fashion-MNIST,
reduced, three seeds: hours on two cores. `paper` has the paper's settings and its data sets for
each part, five seeds, and is for GPUs. `--dataset` and `--seeds` replace a preset's. All studies
share the folder: a training that two of them need is done once, and one MLflow store has them all.

A study that fails is named, in the report with its error, and the rest goes on; the exit status is
then 1. Run again, the command goes on where it was: finished cells are never trained twice. To
begin anew choose another `--output`.

    python studies/reproduce.py --preset smoke
    python studies/reproduce.py --preset quick --output results
    python studies/reproduce.py --preset quick --only table2,figure6
    python studies/reproduce.py --report                             (from what is there)
    python studies/reproduce.py --preset paper --device cuda --gpus-per-cell 0.5
    ray job submit --working-dir . -- python studies/reproduce.py --output /shared/paper
"""

from __future__ import annotations

import importlib
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from hpo.command_line.flags import command, program, shared
from hpo.reproduction import INTERRUPTED, Part, Study, run_parts, write_report
from hpo.tracking.uris import default_tracking_uri

FAILED, UNUSABLE = 1, 2
"""Exit statuses: a part failed; nothing could be run. (`INTERRUPTED` is the third.)"""

SEEDS = {"smoke": 1, "quick": 3, "paper": 5}
DATASETS = {"smoke": ("digits",), "quick": ("fashion_mnist",)}
"""Seeds and data sets of a preset; under `paper` each part has its own data sets."""

_SEMI = ("cifar10", "svhn")

_TABLE1 = "MetaMixUp has the lowest error everywhere, below AdaMixUp and MixUp."

PARTS = (
    Part("table1", "Table I: supervised learning", _TABLE1, ("mnist", "fashion_mnist")),
    Part(
        "table2",
        "Table II: MixUp with different α and λ",
        "MetaMixUp is far below every α and λ of MixUp; MixUp raises the error on MNIST and SVHN.",
        ("cifar10", "cifar100", "svhn", "mnist"),
    ),
    Part(
        "table3",
        "Table III: semi-supervised learning",
        "MetaMixUp improves on MixUp with pseudo-labels, with APL and in MixMatch.",
        _SEMI,
    ),
    Part(
        "table4",
        "Table IV: APL against pseudo-labels",
        "APL makes fewer errors than Pseudo-Label everywhere.",
        _SEMI,
    ),
    Part(
        "table5", "Table V: sensitivity to σd", "The influence of σd on the error is small.", _SEMI
    ),
    Part(
        "figure2",
        "Figure 2: training loss",
        "The training loss of MetaMixUp approaches zero and is substantially below MixUp's.",
        ("cifar10",),
    ),
    Part(
        "figure3",
        "Figure 3: size of the meta-validation set",
        "10 examples of each class lose 0.25 % on CIFAR-10 and 0.1 % on SVHN against 100; more "
        "than 100 gain nothing.",
        ("cifar10", "svhn"),
    ),
    Part(
        "figure4",
        "Figure 4: features in the plane",
        "The features learned with MetaMixUp are more discriminative than MixUp's.",
        ("mnist",),
    ),
    Part(
        "figure5",
        "Figure 5: distance to samples of other classes",
        "Mixed samples of MetaMixUp are farther from real samples of other classes than MixUp's.",
        ("mnist",),
    ),
    Part(
        "figure6",
        "Figure 6: frequency of λ",
        "λ of MetaMixUp is near 0 and 1 more often than that of Beta(1, 1).",
        ("mnist",),
    ),
    Part(
        "figure7",
        "Figure 7: λ by pairs of classes",
        "λ goes from random to specific to the pair of classes.",
        ("cifar10",),
    ),
    Part(
        "proposition1",
        "Proposition 1: MixUp and the gradient's Lipschitz constant",
        "MixUp's loss is a lower bound of the gradient's Lipschitz constant, and to minimize it "
        "helps to control that constant.",
        ("mnist", "cifar10"),
    ),
)
"""The parts in the order of the report."""

_DEEP = ("preact_resnet18", "preact_resnet34", "wrn_28_10")

MORE = (
    *(
        Part(
            "table1",
            f"Table I, {name}: three residual networks",
            _TABLE1,
            datasets,
            name,
            tuple(flag for network in _DEEP for flag in ("--architecture", network)),
            f"table1-{name}",
        )
        for name, datasets in (
            ("colour", ("svhn", "cifar10", "cifar100")),
            ("imagenet", ("imagenet",)),
        )
    ),
    *(
        Part(
            study,
            f"{title}, {dataset} with {labels} labels",
            "The same with the other number of labels.",
            (dataset,),
            f"{dataset}-{labels}",
            ("--labels", str(labels)),
            f"labels-{labels}-{dataset}",
        )
        for study, title in (("table3", "Table III"), ("table4", "Table IV"))
        for dataset, labels in (("cifar10", 4000), ("svhn", 500))
    ),
)
"""Parts that only the preset `paper` has: the rest of Table I (ImageNet apart, which not everyone
has), and the other columns of the semi-supervised tables."""


def parts_of(preset: str) -> tuple[Part, ...]:
    """Returns what a preset reproduces."""
    return (*PARTS, *MORE) if preset == "paper" else PARTS


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the studies and writes the report; returns the exit status."""
    args = _parser().parse_args(arguments)
    output = args.output.expanduser().absolute()
    parts = parts_of(args.preset)
    try:
        chosen = _chosen(parts, args.only)
        output.mkdir(parents=True, exist_ok=True)
        ended = {}
        if not args.report:
            ended = run_parts(
                chosen, _study, lambda part: _flags(part, args, output), output, args.preset
            )
        if any(state.status == INTERRUPTED for state in ended.values()):
            print("reproduce: interrupted; run the same command again to go on", file=sys.stderr)
            return INTERRUPTED
        files = write_report(output, parts)
    except (ValueError, OSError) as error:
        print(f"reproduce: error: {error}", file=sys.stderr)
        return UNUSABLE
    failed = [key for key, state in ended.items() if state.status != 0]
    print(f"\nreproduce: {len(ended) - len(failed)} of {len(ended)} parts done")
    print("report: " + ", ".join(map(str, files)))
    if failed:
        print(f"reproduce: error: failed: {', '.join(failed)}", file=sys.stderr)
    return FAILED if failed else 0


def _study(part: Part) -> Study:
    study: Study = importlib.import_module(f"studies.{part.study}").main
    return study


def _chosen(parts: Sequence[Part], only: str | None) -> list[Part]:
    if only is None:
        return list(parts)
    names = [name.strip() for name in only.split(",")]
    known = {part.key: part for part in parts}
    for name in names:
        if name not in known:
            raise ValueError(f"unknown part {name!r}; choose among {', '.join(known)}")
    return [part for part in parts if part.key in names]


def _flags(part: Part, args: Namespace, output: Path) -> list[str]:
    """Returns the flags of the study of a part, all but --output."""
    datasets = args.dataset or DATASETS.get(args.preset, part.datasets)
    seeds = args.seeds if args.seeds is not None else SEEDS[args.preset]
    flags = ["--preset", args.preset, "--seeds", str(seeds), *part.flags]
    for dataset in datasets:
        flags += ["--dataset", dataset]
    # One store for all, also of parts with a folder of their own.
    flags += ["--tracking-uri", args.tracking_uri or default_tracking_uri(output)]
    if args.storage is not None:
        flags += ["--storage", "/".join([args.storage.rstrip("/"), *filter(None, [part.folder])])]
    for name in ("epochs", "address", "workers", "threads", "device", "gpus_per_cell", "data_root"):
        value = getattr(args, name)
        if value is not None:
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return flags


def _parser() -> ArgumentParser:
    parser = command(
        program("reproduce"),
        __doc__,
        shared(
            preset={"choices": tuple(SEEDS)},
            dataset={"help": "repeatable; for every part"},
            seeds={"default": None, "help": "of each part (default: the preset's)"},
        ),
        shared("epochs", "output", "storage", "address", "workers", "gpus_per_cell", "data_root"),
        shared(
            tracking_uri={"help": "MLflow store (default: DIR/mlflow.db)"},
            threads={"default": None},
            device={"default": None},
        ),
    )
    add = parser.add_argument
    add("--only", metavar="PART,PART", help="run these parts (default: all); the report has all")
    add("--report", action="store_true", help="run nothing, report what is there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
