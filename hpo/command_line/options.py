"""This module reads the flags that every study has, and what they say together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import core.data
from core.training.config import TrainingConfig
from hpo.command_line.flags import (
    canonical,
    chosen_device,
    command,
    program,
    require_counts,
    shared,
    start_at,
)
from hpo.command_line.settings import add_settings, given_settings, with_settings
from hpo.search.protocol import SearchSettings
from hpo.storage.places import storage_at
from hpo.storage.protocol import Storage
from hpo.study import few_label_presets, presets
from hpo.study.given import Given
from hpo.study.row_names import chosen_rows
from hpo.study.rows import StudyRow

if TYPE_CHECKING:
    from core.data import Source

Adapted = Callable[[TrainingConfig], TrainingConfig]
"""What a study makes of a preset's training, before the user's own settings."""


@dataclass(frozen=True)
class Options:
    """The options are what a user asked of a study, checked.

    Attributes:
        datasets, preset, seeds, rows: what to train; rows None is all of the study's.
        semi_supervised: the study is one of semi-supervised learning, with presets of its own.
        labels: labeled images of such a study, or None for the preset's number.
        overrides: settings of the training that replace the preset's.
        search_trials: trials of the search for α, or None for the preset's.
        search_parallel: how many of them are trained at a time.
        budget: of each strategy, in units of a plain training, or None for the preset's.
        output: absolute path of the folder for tables, figures and the default tracking store.
        storage: where results and checkpoints of the cells go; by default the output folder.
        tracking_uri: of MLflow; None is a SQLite file in the output folder.
        address: of a Ray cluster, or None.
        workers, threads: cells at a time (None for as many as fit), and threads of each.
        device: "cpu", "cuda" or "mps".
        gpus_per_cell: GPUs, or a fraction of one, reserved for a cell; None is as many as it needs.
        data_root: where data sets lie; None is the default.
        fresh: train everything again.
        given: objects and data sets that Python code gave.
        near_duplicates: look for them before the first training.
        theme: of the figures, light or dark.
        cost: of the figure of a table, in seconds or samples.
        first_seed: of the trainings of a row, whose seeds follow each other.
    """

    datasets: tuple[str, ...]
    preset: str
    seeds: int
    overrides: dict[str, Any]
    output: Path
    storage: Storage
    tracking_uri: str | None
    address: str | None
    workers: int | None
    threads: int
    device: str
    gpus_per_cell: float | None
    fresh: bool
    rows: tuple[str, ...] | None = None
    search_trials: int | None = None
    budget: float | None = None
    data_root: Path | None = None
    semi_supervised: bool = False
    labels: int | None = None
    search_parallel: int = 1
    given: Given = field(default_factory=Given)
    near_duplicates: bool = False
    theme: str = "light"
    cost: str = "seconds"
    first_seed: int = 0

    def load(self, dataset: str, adapted: Adapted | None = None) -> tuple[TrainingConfig, Source]:
        """Returns the training all rows share on a data set, and the data.

        The preset's sizes are cut to what a small data set has; what the user asked for is not.

        Args:
            dataset: its name.
            adapted: what the study makes of the preset's training.
        """
        if self.semi_supervised:
            epochs = self.overrides.get("epochs")
            training = few_label_presets.training(dataset, self.preset, epochs=epochs)
        else:
            training = presets.training(dataset, self.preset)
        if adapted is not None:
            training = adapted(training)
        size = self.overrides.get("image_size", training.image_size)
        source = self.given.sources.get(dataset) or core.data.load_source(
            dataset, root=self.data_root, image_size=size
        )
        fit_to = few_label_presets.fit_to if self.semi_supervised else presets.fit_to
        training = with_settings(fit_to(training, source), self.overrides)
        if self.labels is not None and training.semi is not None:
            training = replace(training, semi=replace(training.semi, labelled=self.labels))
        return training, source

    def chosen(
        self, rows: Sequence[StudyRow], contenders: Sequence[StudyRow] = ()
    ) -> list[StudyRow]:
        """Returns the rows asked for, in the table's order, varied ones last.

        Args:
            rows: of the study.
            contenders: that it has besides where it is a contest, or where they are asked for.

        Raises:
            ValueError: a name is no row of the study, or a frozen row comes without its source.
        """
        if self.rows is not None:
            return chosen_rows([*rows, *contenders], self.rows)
        return presets.rows(self.preset, rows, contenders)


def parse(
    study: str,
    description: str,
    arguments: Sequence[str] | None = None,
    *,
    budgeted: bool = False,
    semi_supervised: bool = False,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> Options:
    """Reads the command line. Exits with a message on a flag it does not know.

    Args:
        study: the study's name.
        description: shown by --help.
        arguments: the command line, `sys.argv[1:]` by default.
        budgeted: its rows spend a budget by strategies: there is a flag for it, and none for the
            length of the search.
        semi_supervised: its trainings have few labels: there is a flag for how many, and more
            presets.
        defaults: of flags that start elsewhere in this study, such as {"label_noise": 0.4}.

    Raises:
        ValueError: a value is out of range.
    """
    names = few_label_presets.PRESETS if semi_supervised else presets.PRESETS
    parser = command(
        program(study),
        description,
        shared("dataset", "seeds", "first_seed", preset={"choices": names}),
        shared("output", "storage", "tracking_uri", "address", "workers", "threads"),
        shared("device", "gpus_per_cell", "data_root", "near_duplicates", "theme", "cost", "fresh"),
    )
    parser.epilog = (
        "Run again, a command goes on where it was; finished cells are never trained twice."
    )
    add = parser.add_argument
    if semi_supervised:
        add("--labels", type=int, metavar="N", help="labelled images (default: the preset's)")
    add(
        "--rows",
        metavar="KEY,KEY",
        help="only these rows, of constants such as beta-4 any; KEY-stop-0.83 ends mixing early, "
        "KEY-x3 trains 3 times as long, KEY+meta on the meta-validation images too (default: all)",
    )
    if budgeted:
        add("--budget", type=float, metavar="X", help="of each strategy, in plain trainings")
    else:
        add("--search-trials", type=int, metavar="N", help="trials of the search for alpha")
        rounds = "trials of the search at a time, suggested together; its result depends on it"
        add("--search-parallel", type=int, default=1, metavar="K", help=f"{rounds} (default: 1)")
    parser.set_defaults(budget=None, search_trials=None, search_parallel=1)
    add_settings(parser, semi_supervised=semi_supervised)
    start_at(parser, defaults)
    args = parser.parse_args(arguments)
    device = chosen_device(
        args.device, here=args.address is None, way_out="use --device cpu or --address"
    )
    if ":/" in str(args.output):
        raise ValueError("--output is a folder of this machine; it is --storage that takes a URI")
    gpus_per_cell: float | None = float(device == "cuda")
    if args.gpus_per_cell == "auto":
        if device != "cuda":
            raise ValueError("--gpus-per-cell auto measures on a GPU; add --device cuda")
        gpus_per_cell = None
    elif args.gpus_per_cell is not None:
        gpus_per_cell = args.gpus_per_cell
    counts = ("seeds", "workers", "threads", "search_trials", "search_parallel")
    require_counts(args, *counts, *(["labels"] if semi_supervised else []))
    last = SearchSettings().seed - args.seeds  # from there on are the seeds of searches
    if last < 0:
        raise ValueError(f"--seeds must be at most {last + args.seeds}, got {args.seeds}")
    if not 0 <= args.first_seed <= last:
        raise ValueError(f"--first-seed must be in [0, {last}], got {args.first_seed}")
    if args.budget is not None and not 0 < args.budget < float("inf"):
        raise ValueError(f"--budget must be positive and finite, got {args.budget}")
    if gpus_per_cell is not None and not 0 <= gpus_per_cell < float("inf"):
        raise ValueError(f"--gpus-per-cell must be at least 0 and finite, got {gpus_per_cell}")
    if device != "cuda" and gpus_per_cell:
        raise ValueError(
            f"--gpus-per-cell {gpus_per_cell:g} would reserve GPUs for trainings on {device}; add "
            "--device cuda, or leave it out"
        )
    if device == "cuda" and gpus_per_cell == 0:
        raise ValueError(
            "--gpus-per-cell 0 leaves a cell no GPU; give a share such as 0.25, or --device cpu"
        )
    datasets = tuple(dict.fromkeys(map(canonical, args.dataset or ["digits"])))
    for dataset in datasets:
        _check_outside(args.output, dataset)
    return Options(
        datasets=datasets,
        rows=None if args.rows is None else tuple(args.rows.split(",")),
        overrides=given_settings(args, semi_supervised=semi_supervised),
        output=args.output.expanduser().absolute(),
        storage=storage_at(args.output if args.storage is None else args.storage),
        device=device,
        gpus_per_cell=gpus_per_cell,
        semi_supervised=semi_supervised,
        labels=args.labels if semi_supervised else None,
        **{name: getattr(args, name) for name in _AS_GIVEN},
    )


_AS_GIVEN = (
    "preset", "seeds", "first_seed", "search_trials", "search_parallel", "budget", "tracking_uri",
    "address", "workers", "threads", "data_root", "fresh", "near_duplicates", "theme", "cost",
)  # fmt: skip
"""Flags that are options as they are."""


def _check_outside(output: Path, dataset: str) -> None:
    """Raises where the output folder would be taken for a class of images."""
    kind, _, path = dataset.partition(":")
    for part in ("train", "test"):
        folder = Path(path) / part
        if kind == "folder" and output.expanduser().resolve().is_relative_to(folder):
            raise ValueError(
                f"--output {output} lies within the images of {folder}; choose a folder outside"
            )
