"""The data of a study: loaded, planned for, and looked at before its first training."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.data.look import Look, look
from core.training.config import TrainingConfig
from core.training.prepared_data import draw_splits
from hpo.command_line import Adapted, Options
from hpo.command_line.checks import check_training
from hpo.storage.atomic import write_atomically
from hpo.study import presets
from hpo.study.comparisons import NOTHING_DECLARED, Comparisons
from hpo.study.few_label_rows import with_presets
from hpo.study.filtering import require_cleanlab
from hpo.study.plan import Plan, SourceKey, source_key
from hpo.study.rows import StudyRow, grid_cost

if TYPE_CHECKING:
    from core.data import Source


def prepare(
    study: str,
    rows: Sequence[StudyRow],
    options: Options,
    adapted: Adapted | None = None,
    comparisons: Comparisons = NOTHING_DECLARED,
) -> tuple[Plan, dict[SourceKey, Source]]:
    """Loads the data sets and plans the study; raises what a training would later stumble over."""
    _check_used(rows, options)
    joins = options.address is not None or os.environ.get("RAY_ADDRESS")
    if joins and options.workers != 0:
        from hpo.cluster.address import find_cluster

        find_cluster(options.address)
    base: dict[str, TrainingConfig] = {}
    sources: dict[SourceKey, Source] = {}
    for dataset in options.datasets:
        base[dataset], source = options.load(dataset, adapted)
        sources[source_key(base[dataset])] = source
    rows = with_presets(rows, base, sources, options.preset, options.overrides)
    if any(row.filtered_by is not None for row in rows):
        require_cleanlab()
    search = replace(presets.search(options.preset), parallel=options.search_parallel)
    if options.search_trials is not None:
        search = replace(search, trials=options.search_trials)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    trained = [*seeds]
    if any(row.searched is not None or row.strategy is not None for row in rows):
        trained += range(search.seed, search.seed + search.replicates)
    policies = [row.policy for row in rows if row.policy is not None]
    for training in base.values():
        source = sources[source_key(training)]
        for row in rows:  # a policy may have no use for a setting
            replace(row.training_of(training), policy=row.policy or training.policy)
        for varied in dict.fromkeys(row.training_of(training) for row in rows):
            device = options.device if options.address is None else None
            check_training(varied, source, policies, device, trained)
    budget = None
    if any(row.strategy is not None for row in rows):
        budget = options.budget or grid_cost(rows) or presets.budget(options.preset)
    comparisons = comparisons.of(next(iter(base.values())), [row.row.key for row in rows])
    plan = Plan(study, rows, options.datasets, seeds, base, search, budget, comparisons)
    return plan, sources


def _check_used(rows: Sequence[StudyRow], options: Options) -> None:
    """Raises ValueError where a flag is given that no row has a use for."""
    flags: dict[str, float | None] = {}
    if not any(row.searched is not None or row.strategy is not None for row in rows):
        flags |= {"--search-trials": options.search_trials}
        if options.search_parallel != 1:
            flags |= {"--search-parallel": options.search_parallel}
    if not any(row.strategy is not None for row in rows):
        flags |= {"--budget": options.budget}
    for flag, value in flags.items():
        if value is not None:
            kind = "has a strategy" if flag == "--budget" else "is searched"
            raise ValueError(
                f"{flag} {value:g} has no use: none of the rows {kind}; leave it out, or choose "
                "such a row with --rows"
            )


def look_at_data(
    file: Path,
    plan: Plan,
    sources: Mapping[SourceKey, Source],
    *,
    near: bool,
    say: Callable[[str], None],
) -> Path:
    """Says three lines on each data set, and writes all that was seen.

    Args:
        file: JSON, a list with an entry a data set; what it knows of the same data is not looked
            for again.
        plan, sources: the study and its data.
        near: look for near duplicates, too.
        say: tells the user a line.

    Returns:
        The file.
    """
    known = _known(file)
    entries = []
    for training in plan.base.values():
        source = sources[source_key(training)]
        say(source.description)
        fingerprint = source.fingerprint()
        seen = known.get(fingerprint)
        if seen is None or (near and seen.near is None):
            if not isinstance(source.train_data, np.ndarray):
                say(f"{source.name}: looking at all items once")
            seen = look(source, near=near)
        splits = draw_splits(replace(training, seed=0), source)
        for line in seen.lines(splits.train.tolist(), splits.meta_validation.tolist()):
            say(line)
        entries.append({"fingerprint": fingerprint, **seen.to_dict()})
    write_atomically(file, json.dumps(entries))
    return file


def _known(file: Path) -> dict[str, Look]:
    """Returns what an earlier invocation saw, by the fingerprint of the data."""
    known: dict[str, Look] = {}
    names = {field.name for field in fields(Look)}
    with suppress(OSError, ValueError, TypeError, KeyError):  # then it is looked for again
        entries: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        for entry in entries:
            known[entry["fingerprint"]] = Look(**{name: entry[name] for name in names})
    return known
