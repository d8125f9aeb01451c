"""What was run, for the head of a study's Markdown report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from core.training.config import TrainingConfig
from hpo.cells.gpu_use import GIB, GpuUse
from hpo.cells.record import ENVIRONMENT, CellRecord
from hpo.report.records import finished_finals
from hpo.study.plan import Plan
from hpo.study.rows import StudyRow

_REMEDIES = (
    "stop_mixing", "augment", "loss", "loss_strength", "sampling", "class_weights",
    "logit_adjustment",
)  # fmt: skip
_DEMONSTRATION = (
    " It is a demonstration: trainings are short and sets small, so that it answers only where its "
    "positive control shows; the preset `contest` is long enough."
)
_OPTIMIZERS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}


def preset_line(plan: Plan, preset: str | None) -> str:
    """Returns the preset and the seeds, and what a demonstration is worth; without a preset, as all
    settings came from Python, the seeds alone."""
    warning = _DEMONSTRATION if preset in ("smoke", "quick") else ""
    first = f" from {plan.seeds[0]} on" if plan.seeds[0] else ""
    named = "" if preset is None else f"Preset `{preset}`, "
    seeds = "1 seed" if len(plan.seeds) == 1 else f"{len(plan.seeds)} seeds"
    return f"{named}{seeds}{first}.{warning}"


def preamble_of(
    plan: Plan, records: Sequence[CellRecord], preset: str | None, data: Sequence[str] = ()
) -> str:
    """Returns preset, seeds, where it trained, what was read of each data set, its trainings, and
    what rows have for themselves; a control has what its row has."""
    lines = [preset_line(plan, preset), *environments(records)]
    lines += [f"Read of {text}." for text in data]
    lines += memory_lines(records)
    for dataset, t in plan.base.items():
        size = f"{t.train_size} training" if t.train_size else "all other training"
        pixels = f" at {t.image_size}×{t.image_size}" if t.image_size else ""
        lines.append(
            f"{dataset}{pixels}: {t.model}, {size} and {t.meta_size} meta-validation images, "
            f"{t.epochs} epochs, batch {t.batch_size}, {_OPTIMIZERS.get(t.optimizer, t.optimizer)} "
            f"{t.lr} with {t.schedule} schedule."
            f"{scenario(t)}"
        )
    for row in (row for row in plan.rows if row.row.control_of is None):
        settings = {d: _own(t, row, d) for d, t in plan.base.items()}
        if len(set(settings.values())) == 1:
            settings = {"": next(iter(settings.values()))}
        for dataset, text in settings.items():
            where = f" on {dataset}" if dataset else ""
            lines += [f"{row.row.label}{where}: {text}."] if text else []
    return "\n".join(lines)


def scenario(training: TrainingConfig) -> str:
    """Returns what was done to the training images, and how they are computed.

    Sentences behind a space; "" where all is the default.
    """
    text = ""
    if training.dedup:
        text += " What equals a test item is left out of training and meta-validation."
    if training.imbalance > 1:
        text += (
            f" Training images cut to a long tail, largest over smallest class "
            f"{training.imbalance:g}, at least one of each."
        )
    if training.label_noise > 0:
        text += (
            f" {100 * training.label_noise:g} % of the training labels of each class are wrong "
            f"({training.label_noise_kind})."
        )
    if training.labels is not None:
        text += f" Training labels are those of {Path(training.labels).name}."
    if training.meta_noise:
        text += " Meta-validation labels are as noisy as those of training."
    if training.checked is not None:
        text += f" Meta-validation images are of those that {Path(training.checked).name} names."
    for setting in (f for f in fields(training) if f.name in _REMEDIES):
        value = getattr(training, setting.name)
        text += "" if value == setting.default else f" {setting.name}={value}."
    if (training.precision, training.memory_format) != ("float32", "contiguous"):
        text += f" Computed in {training.precision}, {training.memory_format}."
    if training.semi is not None:
        text += f" {training.semi.labelled} training images are labelled, the others are not."
    return text


def environments(records: Sequence[CellRecord]) -> list[str]:
    """Returns one line that says where the final trainings ran; a second one where that differs."""
    finals = finished_finals(records) or [r for r in records if r.status == "finished"]
    noted = [sorted((k, v) for k, v in r.environment.items() if k in ENVIRONMENT) for r in finals]
    seen = {", ".join(f"{name} {value}" for name, value in pairs) for pairs in noted}
    lines = [f"Trained with {text}." for text in sorted(seen)]
    if len(seen) > 1:
        lines.append("Trained in different places: times, and on GPUs errors, compare with care.")
    return lines


def _own(training: TrainingConfig, row: StudyRow, dataset: str) -> str:
    """Returns what a row has for itself on a data set: of its method what is not the default, of
    the preset what is not shared, and all that the study gave it."""
    settings = dict(row.by_dataset.get(dataset, {}))
    semi = settings.pop("semi", None)
    settings = {name: value for name, value in settings.items() if value != getattr(training, name)}
    if semi is not None:
        defaults = {field.name: field.default for field in fields(semi)}
        method = {name: value for name, value in asdict(semi).items() if value != defaults[name]}
        settings = {name: method[name] for name in method if name != "labelled"} | settings
    return ", ".join(f"{name}={value}" for name, value in {**settings, **row.training}.items())


def memory_lines(records: Sequence[CellRecord]) -> list[str]:
    """Returns what the report says of GPU memory: the most that a cell took, and how many fit on a
    GPU. Empty where no record knows."""
    uses = [(GpuUse.from_environment(record.environment), record.cell) for record in records]
    measured = [(use, cell) for use, cell in uses if use is not None]
    if not measured:
        return []
    use, cell = max(measured, key=lambda pair: pair[0].peak / pair[0].total)
    number = math.floor(1 / use.safe_share + 1e-9)
    lines = [
        f"GPU memory: a cell took at most {use.peak / GIB:.1f} of {use.total / GIB:.1f} GiB "
        f"({cell.method} on {cell.dataset}); --gpus-per-cell {use.safe_share:g} is safe, {number} "
        "to a GPU."
    ]
    over = sorted({cell.method for use, cell in measured if use.peak > use.share * use.total})
    if over:
        lines.append(
            f"GPU memory: more than their share was taken by {', '.join(over)}; cells that are "
            "packed so may fail for want of memory: raise --gpus-per-cell."
        )
    return lines
