"""What the paper's full study would take on N GPUs: a plan on paper, nothing is trained.

Tables I to V with their controls and searches, on the data sets, architectures and numbers of
labels of the paper, in its settings: cells, GPU-hours, wall time, storage, and where the cost lies,
followed by every assumption. It takes seconds, needs no data and no GPU.

    python studies/plan.py --preset paper --gpus 64
    python studies/plan.py --gpus 8 --seeds 3 --tables table2,table5
    python studies/plan.py --gpus 8 --gpu-tflops 60      (measured with your GPU and precision)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import ModuleType

from core.lazy import pandas as pd
from hpo.bench.estimate import Table, plan_report, planned_jobs
from hpo.command_line.flags import command, program, shared
from hpo.study import few_label_presets, presets
from studies import table1, table2, table3, table4, table5
from studies.paper_numbers import COLUMNS as LABELLED

_ARCHITECTURES = ("preact_resnet18", "preact_resnet34", "wrn_28_10")
_TABLE1 = (
    ("mnist", "cnn"),
    ("fashion_mnist", "cnn"),
    *((d, a) for d in ("svhn", "cifar10", "cifar100", "imagenet") for a in _ARCHITECTURES),
)
_COLUMNS: Mapping[str, Sequence[tuple[str, int | str | None]]] = {
    "table1": _TABLE1,
    "table2": (("cifar10", None), ("cifar100", None), ("svhn", None), ("mnist", None)),
    "table3": LABELLED,
    "table4": LABELLED,
    "table5": (("cifar10", 4000), ("svhn", 1000)),
}
"""The columns of the paper's tables: data set, and number of labels or architecture."""

_STUDIES: Mapping[str, ModuleType] = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "table4": table4,
    "table5": table5,
}


def table(name: str, preset: str, epochs: int | None = None) -> Table:
    """Returns one of the paper's tables under a preset, with all rows that it trains there.

    Args:
        name: of its study.
        preset: one of `hpo.study.presets.PRESETS`.
        epochs: of all its trainings; None is the preset's.
    """
    columns = {}
    for dataset, which in _COLUMNS[name]:
        if isinstance(which, int):
            training = few_label_presets.training(dataset, preset)
            assert training.semi is not None
            label = f"{dataset} {which} labels"
            if training.train_size is not None and which >= training.train_size:
                label += f", cut to {training.semi.labelled}"  # as the preset has
            else:
                training = replace(training, semi=replace(training.semi, labelled=which))
        else:
            training, label = presets.training(dataset, preset), dataset
            if which is not None:
                training, label = replace(training, model=which, width=None), f"{dataset} {which}"
        columns[label] = replace(training, epochs=epochs or training.epochs)
    study = _STUDIES[name]
    rows = presets.rows(preset, study.rows(), getattr(study, "CONTENDERS", ()))
    return Table(name, rows, columns, presets.search(preset))


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the plan; returns the exit status."""
    parser = command(
        program("plan"),
        __doc__,
        shared(
            preset={"default": "paper", "choices": presets.PRESETS},
            seeds={"default": 5, "help": "default: 5"},
            epochs={"help": "of every training (default: the preset's)"},
        ),
    )
    add = parser.add_argument
    add("--gpus", type=int, default=8, metavar="N", help="default: 8")
    add("--tables", default=",".join(_STUDIES), metavar="NAME,NAME", help="default: all")
    throughput = "sustained TFLOP/s of one GPU in training (default: 20)"
    add("--gpu-tflops", type=float, default=20.0, metavar="X", help=throughput)
    args = parser.parse_args(arguments)
    names = list(dict.fromkeys(name.strip() for name in args.tables.split(",")))
    unknown = [name for name in names if name not in _STUDIES]
    if unknown:
        parser.error(f"unknown table {unknown[0]!r}; choose among {', '.join(_STUDIES)}")
    for flag in ("gpus", "seeds", "epochs", "gpu_tflops"):
        value = getattr(args, flag)
        if value is not None and not 0 < value < float("inf"):
            parser.error(f"--{flag.replace('_', '-')} must be above 0 and finite, got {value:g}")
    tables = [table(name, args.preset, args.epochs) for name in names]
    jobs = pd.concat([planned_jobs(each, args.seeds) for each in tables], ignore_index=True)
    print(plan_report(jobs, tables, args.seeds, args.gpus, args.gpu_tflops))
    return 0


if __name__ == "__main__":
    sys.exit(main())
