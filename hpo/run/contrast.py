"""Interpolation policies compared on a user's own objects, from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any, get_args

from torch import nn

from core.data import with_fingerprint
from core.data.imported import GIVEN, called, given
from core.data.sources import own_source
from core.lazy import pandas as pd
from core.lazy import torch
from core.policies import PolicyConfig
from core.training.config import TrainingConfig
from core.training.defaults import torchs_defaults
from hpo.cells.record import CellRecord
from hpo.command_line import Options
from hpo.command_line.flags import chosen_device
from hpo.command_line.settings import LABEL_FILES, OWNED
from hpo.command_line.settings import settings as known_settings
from hpo.run.work import run_rows
from hpo.storage.places import output_at, storage_at
from hpo.study.given import Given, named_object, weights_digest
from hpo.study.named_rows import rows_of
from hpo.study.rows import StudyRow
from hpo.study.study_run import StudyError
from hpo.tracking.uris import require_address

Policies = Sequence[str | PolicyConfig | StudyRow]

POLICIES: Policies = ("none", "beta-1", "metamixup", "placebo")


@dataclass(frozen=True)
class Contrast:
    """This is what a contrast found.

    Attributes:
        records: what became of each training, sorted by id.
        table: a line a policy: method, n_seeds, mean_error (percent), ci_low, ci_high,
            train_seconds, diff_vs_best_beta, p_holm and more; see `hpo.report.table.COLUMNS`.
        files: what was written.
        text: the whole report, in Markdown; `print` shows it.
    """

    records: Sequence[CellRecord]
    table: pd.DataFrame
    files: Sequence[Path]
    text: str

    def __str__(self) -> str:
        """Returns the report."""
        return self.text


def contrast(
    *,
    model: str | nn.Module | Callable[..., nn.Module],
    train: Any,
    test: Any,
    policies: Policies = POLICIES,
    seeds: int = 5,
    epochs: int = 30,
    output: str | Path = "results/contrast",
    augment: str | Callable[..., Any] | None = None,
    optimizer: str | Callable[..., Any] = "sgd",
    schedule: str | Callable[..., float] = "cosine",
    name: str | None = None,
    workers: int | None = None,
    threads: int = 1,
    device: str = "auto",
    address: str | None = None,
    tracking_uri: str | None = None,
    fresh: bool = False,
    **settings: Any,
) -> Contrast:
    """Trains a model of one's own with each policy and seed, and says which policy to take.

    It is a study like those of the command line: under Ray, tracked in MLflow, and resumed by the
    same call, which trains nothing twice. Policies share initial weights, splits and the order of
    data, seed by seed.

    A training is known by its settings, the data (a fingerprint) and the names of the objects: the
    import path, or what a class or function in a script or notebook is called. A change of their
    code goes unnoticed; then give another ``output``, or ``fresh``. What has no name of its own,
    such as a lambda, needs ``name``.

    Args:
        model: a factory (a class is one), called for each training with those of in_channels,
            num_classes and image_size that it takes; a name of ``--model``; or a module, whose
            weights all trainings begin with.
        train, test: each a ``torch.utils.data.Dataset`` of (PIL image or tensor, label), or (x, y)
            as arrays or tensors: uint8 images [N, C, S, S] or floating point features [N, ...].
        policies: see `hpo.study.named_rows.rows_of`; no strategies.
        seeds: trainings of each policy, at least 1.
        epochs: of each training.
        output: folder of results, tables and figures.
        augment: callable on a batch of training items, before normalization.
        optimizer: "sgd", "adam", "adamw", or a factory, called with those of params, lr, momentum
            and weight_decay that it takes. Its own lr holds unless ``lr`` is given.
        schedule: "cosine", "step", "constant", or a function of those of step, steps, epochs and
            lr that it takes.
        name: of the study, its files and its MLflow experiment, and of objects that lack a name.
        workers: trainings at a time; None for as many as fit. 0 trains here, without Ray.
        threads: of a training.
        device: "auto", "cpu", "cuda" or "mps".
        address: of a Ray cluster that reaches ``output``.
        tracking_uri: of MLflow; None: ``MLFLOW_TRACKING_URI``, or ``output/mlflow.db``.
        fresh: trains everything again.
        settings: other fields of `core.training.TrainingConfig`, such as lr, batch_size (64),
            meta_size (a fifth of the training items, 500 at most) or checked (a file). Items are
            not flipped unless ``flip=True``.

    Raises:
        ValueError: an object, setting or data set does not fit; the line names it.
        StudyError: every training failed, or Ray cannot be used.
        TrackingError, StoreError, OSError: MLflow or the folder cannot be used.

    Examples:
        >>> import hpo, tempfile, torch
        >>> def linear():
        ...     return torch.nn.Linear(4, 3)
        >>> x, y = torch.randn(60, 4), torch.arange(60) % 3
        >>> data = {"train": (x[:45], y[:45]), "test": (x[45:], y[45:])}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = hpo.contrast(
        ...         model=linear, **data, policies=["none", "beta-1"], seeds=1, epochs=1,
        ...         output=folder, workers=0,
        ...     )
        >>> found.table["method"].tolist()
        ['none', 'beta-1']
    """
    rows = rows_of(policies)
    for row in rows:
        if row.strategy is not None:
            raise ValueError(
                f"policy {row.row.key} is a strategy, which spends a budget and has no line in the "
                "table; give a hpo.Searched recipe, or set strategies against each other with "
                "hpo.run_study"
            )
    if name is not None and (not name or name[0] == "." or {*name} & {*"/\\"}):
        raise ValueError(f"name must be a word for files, without slashes, got {name!r}")
    recipe = {"augment": augment, "optimizer": optimizer, "schedule": schedule}
    objects: dict[str, Callable[..., Any]] = {}
    named: dict[str, str] = {}
    for role, thing in {"model": model, **recipe}.items():
        if thing is not None or role == "model":
            named[role], given = named_object(role, thing, name)
            objects |= given
    _check(settings, seeds=seeds, epochs=epochs, threads=threads, workers=workers)
    if workers == 0 and address is not None:
        raise ValueError(
            f"address={address!r} names a Ray cluster, and workers=0 trains here, without Ray; "
            "leave one of the two out"
        )
    chosen = {"flip": False, "epochs": epochs, **named, **settings, **_files(settings)}
    if callable(optimizer) and "lr" not in settings:
        chosen |= _own_rate(named["optimizer"], objects)
    source = own_source("data", (train, test), image_size=settings.get("image_size"))
    dataset = f"{GIVEN}{name or source.fingerprint()[:8]}"
    folder = output_at(output)
    require_address(tracking_uri)
    _check_device(device)
    device = chosen_device(device, here=address is None, way_out='give device="cpu"')
    options = Options(
        datasets=(dataset,),
        preset="quick",
        seeds=seeds,
        overrides=chosen,
        output=folder,
        storage=storage_at(folder),
        tracking_uri=tracking_uri,
        address=address,
        workers=workers,
        threads=threads,
        device=device,
        gpus_per_cell=float(device == "cuda"),
        fresh=fresh,
        given=Given(
            objects,
            {dataset: replace(source, name=dataset)},
            weights_digest(model) if isinstance(model, nn.Module) else "",
        ),
    )
    with torchs_defaults():
        ended = run_rows(
            name or "contrast",
            rows,
            options,
            about="Policies compared on objects given from Python.",
            adapted=_all_items,
            tell=lambda *_: True,
        )
    if not any(record.status == "finished" for record in ended.records):
        failed = ended.records[0]
        raise StudyError(f"every training failed; {failed.cell.id}: {failed.error}")
    return Contrast(ended.records, ended.frame, ended.files, ended.text)


def _all_items(training: TrainingConfig) -> TrainingConfig:
    """Returns the preset's training on all items of the user's own, as large as they are."""
    return replace(training, train_size=None, image_size=None)


def _files(settings: Mapping[str, Any]) -> dict[str, str]:
    """Returns the settings that name files as every process finds them: a file of labels is known
    by its content besides, weights by their path alone."""
    named = {n: settings[n] for n in (*LABEL_FILES, "weights") if settings.get(n) is not None}
    for setting, file in named.items():
        if not isinstance(file, (str, Path)):
            raise ValueError(
                f"{setting} must be a file, got {type(file).__name__}; write it to one"
            )
    return {
        setting: with_fingerprint(str(file))
        if setting in LABEL_FILES
        else str(Path(file).expanduser().absolute())
        for setting, file in named.items()
    }


def _own_rate(optimizer: str, objects: Mapping[str, Callable[..., Any]]) -> dict[str, float]:
    """Returns the learning rate that a factory of optimizers has; nothing where it takes it."""
    try:
        with given(objects):
            # Zeros, not the weights of a layer: those draw from the caller's random stream.
            params = [nn.Parameter(torch.zeros(shape)) for shape in ((1, 1), (1,))]
            made = called(optimizer, params=params, momentum=0.9, weight_decay=0.0)
        return {"lr": float(made.param_groups[0]["lr"])}
    except (ValueError, AttributeError):  # it needs one, or is refused before the first training
        return {}


_KINDS = {int: "a whole number", float: "a number", bool: "True or False", type(None): "None"}


def _check_device(device: str) -> None:
    if device not in ("auto", "cpu", "cuda", "mps"):
        raise ValueError(
            f"device must be auto, cpu, cuda or mps, got {device!r}; of several GPUs "
            "CUDA_VISIBLE_DEVICES says which"
        )


def _check(settings: Mapping[str, Any], workers: int | None, **counts: int) -> None:
    known = known_settings()
    for setting, value in settings.items():
        if setting in OWNED or setting == "dataset" or setting not in known:
            listed = ", ".join(n for n in known if n not in OWNED and "." not in n)
            raise ValueError(f"{setting!r} is no setting of contrast; choose among {listed}")
        kinds = get_args(known[setting]) or (known[setting],)
        if isinstance(value, str) and {*_KINDS}.issuperset(kinds):
            wanted = " or ".join(_KINDS[kind] for kind in kinds)
            raise ValueError(f"{setting} must be {wanted}, got {value!r}")
    whole = counts if workers is None else {**counts, "workers": workers}
    for count, value in whole.items():
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise ValueError(f"{count} must be a whole number, got {value!r}")
    for count, value in counts.items():
        if value < 1:
            raise ValueError(f"{count} must be at least 1, got {value}")
    if workers is not None and workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
