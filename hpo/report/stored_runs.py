"""Trainings that are stored in folders, compared over the seeds that they share."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core.lazy import pandas as pd
from hpo.cells.record import CellRecord
from hpo.report.contrasts import Values, contrasts, detectable
from hpo.report.figure_files import interval_columns
from hpo.report.markdown import difference, number, padded_table, plus_minus, probability
from hpo.report.records import finished_finals, load_records, settings_of
from hpo.study.plan import SourceKey, source_key

MEASURES = ("test_error", "val_error", "train_seconds")
"""What of a training can be compared; the errors in percent. The seconds are its own, without those
of a search that chose its setting, which a study's table counts in."""

_HEADER = ("trainings", "mean", "n", "− reference", "p (Holm)", "seen with 80 % power")


class _Group(NamedTuple):
    """Trainings that differ in nothing but the seed."""

    folder: Path
    method: str
    settings: str


def stored_comparison(
    folders: Sequence[Path],
    methods: Sequence[str] | None = None,
    reference: str | None = None,
    measure: str = MEASURES[0],
) -> pd.DataFrame:
    """Returns a line for each method, its settings and data set of the finished trainings in the
    folders.

    Columns: dataset, method (with what sets it apart from others of the same name), measure,
    reference, n_seeds, mean with its 95 % interval (ci_low, ci_high); and over the n_shared seeds
    that both have the paired difference to the reference with its interval (diff_ci_low,
    diff_ci_high), p_value, p_holm, and the difference that was detectable with 80 % power.

    Args:
        folders: output folders of studies.
        methods: keys of rows; None takes all. The reference is taken along.
        reference: the key that the others are compared with; None is the first of the methods, or
            of all by their names.
        measure: one of MEASURES.

    Raises:
        ValueError: a folder is not there or holds no finished training, a method is not there, two
            trainings differ in nothing that a table could show, or in their data; or the
            meta-validation error is asked for of rows that train on those images.
    """
    taken = None if methods is None else {*methods, *filter(None, [reference])}
    data: dict[SourceKey, tuple[Path, str]] = {}
    training_errors: set[str] = set()
    datasets: dict[str, dict[_Group, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    seen: set[str] = set()
    for folder in {folder.expanduser().resolve(): folder for folder in folders}.values():
        records = finished_finals(load_records(folder.expanduser()))
        if not records:
            raise ValueError(f"{folder} holds no finished training; give a study's --output")
        for record in records:
            cell = record.cell
            seen.add(cell.method)
            if taken is not None and cell.method not in taken:
                continue
            _check_data(record, folder, data)
            if cell.training.meta_in_training:
                training_errors.add(cell.method)
            values = datasets[cell.dataset][_Group(folder, cell.method, settings_of(cell))]
            if cell.seed in values:
                raise ValueError(
                    f"{cell.method} on {cell.dataset} with seed {cell.seed} was trained twice in "
                    f"{folder}, without a setting that differs; keep one of them in a folder of "
                    "its own"
                )
            values[cell.seed] = float(getattr(record.trained, measure))
    for name in [*(methods or ()), *([reference] if reference else [])]:
        if name not in seen:
            raise ValueError(
                f"no finished training of {name!r}; there are {', '.join(sorted(seen))}"
            )
    if measure == "val_error" and training_errors:
        raise ValueError(
            f"the val_error of {', '.join(sorted(training_errors))} is one of images that train; "
            "choose other rows with --methods, or another --measure"
        )
    return pd.DataFrame(
        [
            {"dataset": dataset, "measure": measure, **line}
            for dataset, groups in datasets.items()
            for line in _lines(groups, reference or next(iter(methods or ()), None))
        ]
    )


def stored_comparison_text(comparison: pd.DataFrame) -> str:
    """Returns a Markdown table for each data set of a `stored_comparison`."""
    parts = []
    for (dataset, measure), lines in comparison.groupby(["dataset", "measure"], sort=False):
        cells = [_cells(line) for line in lines.to_dict("records")]
        parts += [f"## {dataset}, {measure}", padded_table(_HEADER, cells)]
    return "\n\n".join(parts)


def _check_data(record: CellRecord, folder: Path, known: dict[SourceKey, tuple[Path, str]]) -> None:
    """Refuses a training on other data than `known`, where those of a new name are noted.

    Raises:
        ValueError: another was trained on data of the same name with another fingerprint.
    """
    fingerprint = record.environment.get("data", "")[:16]  # that of weights follows
    if not fingerprint:
        return
    key = source_key(record.cell.training)
    first, expected = known.setdefault(key, (folder, fingerprint))
    if fingerprint != expected:
        raise ValueError(
            f"{first} and {folder} were trained on different images or labels of {key[0]} "
            f"(fingerprints {expected} and {fingerprint}); give folders of the same data"
        )


def _cells(line: Mapping[str, Any]) -> list[str]:
    cells = [line["method"], plus_minus(line["mean"], line["ci_high"]), str(line["n_seeds"])]
    if line["reference"] is None:
        return [*cells, "–", "–", "–"]
    if line["method"] == line["reference"]:
        return [f"{cells[0]} (reference)", *cells[1:], "–", "–", "–"]
    against = difference(line["difference"], line["diff_ci_low"], line["diff_ci_high"])
    if line["n_shared"] != line["n_seeds"]:
        against += f", n = {line['n_shared']:.0f}"
    return [*cells, against, probability(line["p_holm"]), number(line["detectable"], "{:.2f}")]


def _lines(groups: Mapping[_Group, Values], reference: str | None) -> Iterator[dict[str, Any]]:
    labels = _labels(groups)
    first = _reference(labels, reference)
    pairs = {g: (values, groups[first]) for g, values in groups.items() if first not in (None, g)}
    against = contrasts(pairs)
    for group, values in groups.items():
        line = {
            "method": labels[group],
            "reference": labels.get(first) if first else None,
            **interval_columns(values.values()),
        }
        if group in against:
            line |= {
                "n_shared": against[group].paired.n,
                **against[group].columns(),
                "detectable": detectable(*pairs[group]),
            }
        yield line


def _reference(labels: Mapping[_Group, str], method: str | None) -> _Group | None:
    """Returns the first folder's group of the method, of several the one with least to be said of
    its settings; None where it is not there."""
    groups = list(labels)
    folders = list(dict.fromkeys(group.folder for group in groups))
    there = [group for group in groups if group.method == (method or groups[0].method)]
    return min(
        there, key=lambda group: (folders.index(group.folder), len(labels[group])), default=None
    )


def _labels(groups: Iterable[_Group]) -> dict[_Group, str]:
    """Returns a name for each, which says no more than sets it apart from the others."""
    all_groups = list(groups)
    several = len({group.folder for group in all_groups}) > 1
    labels = {}
    for group in all_groups:
        same = [json.loads(g.settings) for g in all_groups if g.method == group.method]
        settings = json.loads(group.settings)
        differing = [n for n in settings if any(settings[n] != other.get(n) for other in same)]
        labels[group] = (
            (f"{group.folder}: " if several else "")
            + group.method
            + "".join(f", {name}={_shown(settings[name])}" for name in differing)
        )
    return labels


def _shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)
