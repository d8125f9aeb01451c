"""The search for α with Optuna alone: no Ray, one process, resumable from its storage.

    python -m hpo.optuna_study --dataset digits --preset quick --storage sqlite:///alpha.db

The storage is SQLite (or any other database URL that Optuna knows), or a journal file (a path that
ends in `.log`). Run again, it goes on where it was. Under the same preset, trials and decisions are
those of the search inside `studies/table2.py`.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from core.data import Source, load_source
from core.training.checkpoint import remove_checkpoints
from core.training.config import TrainingConfig
from core.training.fit import fit
from core.training.result import DivergenceError, Metrics
from hpo.cells.cell import Cell
from hpo.cells.result import PartialResult
from hpo.cells.store import CellStore
from hpo.command_line.flags import canonical, chosen_device, command, place, shared
from hpo.search.drive import Ending, run_through
from hpo.search.protocol import SearchSettings
from hpo.search.space_search import SpaceSearch, alpha_search, optuna_silenced
from hpo.storage import output_folder
from hpo.storage.folder import FolderStorage
from hpo.storage.places import storage_of
from hpo.study import presets

_DATA = "data"
"""Under this name Optuna's study keeps the fingerprint of the data."""


class _Pruned(Exception):
    """Ends a training from inside."""


def open_storage(storage: str) -> BaseStorage:
    """Opens the database behind a URL, or the journal file that a path ending in .log names.

    Raises:
        ValueError: it is neither, or cannot be opened.
    """
    try:
        if "://" in storage:
            return RDBStorage(storage)
        if storage.endswith(".log"):
            return JournalStorage(JournalFileBackend(storage))
    except (SQLAlchemyError, ImportError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        where = "the database" if "://" in storage else storage  # a URL may hold a password
        raise ValueError(
            f"cannot open {where} given as storage: {reason}; choose an existing folder and a new "
            "file or one of an earlier search, such as sqlite:///alpha.db"
        ) from error
    raise ValueError(
        f"storage must be a database URL such as sqlite:///alpha.db or a journal file ending in "
        f".log, got {storage!r}"
    )


def search_alpha(
    base: TrainingConfig,
    settings: SearchSettings,
    *,
    storage: BaseStorage | str | None = None,
    source: Source | None = None,
    data_root: Path | None = None,
    checkpoints: str | Path | None = None,
    device: str = "cpu",
    on_trial: Callable[[optuna.trial.FrozenTrial], None] | None = None,
) -> SpaceSearch:
    """Runs the search to its end in this process.

    Args:
        base: the training to tune; its policy and seed are replaced.
        settings: how long to search.
        storage: Optuna storage; a search that it knows is continued. None: in memory.
        source: the data, if already loaded.
        data_root: where named data sets lie.
        checkpoints: folder of this machine in which the running trial keeps checkpoints, so that
            a killed search goes on inside it.
        device: where to train.
        on_trial: called once with each trial that ended, after the last of its trainings.

    Returns:
        The finished search; `best()` is its result, `study` the Optuna study.

    Raises:
        ValueError: ``checkpoints`` is no folder of this machine, or the data are not those that
            the search was begun with.

    Examples:
        >>> import hpo
        >>> from hpo.study import presets
        >>> search = hpo.search_alpha(presets.training("digits", "smoke"), presets.search("smoke"))
        >>> 0.05 <= search.best()["alpha"] <= 8
        True
    """
    kept = None if checkpoints is None else storage_of(checkpoints)
    if kept is not None and not isinstance(kept, FolderStorage):
        raise ValueError(f"checkpoints must be a folder of this machine, got {checkpoints}")
    search = alpha_search(base, settings, storage=storage)
    if source is None:
        source = load_source(base.dataset, root=data_root, image_size=base.image_size)
    data = source.fingerprint()
    if search.study.user_attrs.get(_DATA, data) != data:
        raise ValueError(
            f"{base.dataset} has other images or labels than this search was begun with; search "
            "in another storage, or put the data back"
        )
    search.study.set_user_attr(_DATA, data)

    def folder_of(cell: Cell) -> Path | None:
        return None if kept is None else CellStore(kept).directory(cell.id)

    def ended(cell: Cell) -> Ending:
        return _train(search, cell, source, folder_of(cell), device)

    def tidy(cell: Cell) -> None:
        # A trial is several trainings, and a killed one asks for all of them again.
        folders.append(folder_of(cell))
        if not search.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            for directory in filter(None, folders):
                remove_checkpoints(directory)
                with suppress(OSError):  # a study on the same folder may keep its result there
                    directory.rmdir()
            folders.clear()
        if on_trial is None:
            return
        for trial in _ended(search, told):
            told.add(trial.number)
            on_trial(trial)

    folders: list[Path | None] = []
    told = {trial.number for trial in _ended(search)}
    run_through(search, ended, tidy)
    return search


def _ended(search: SpaceSearch, but: Collection[int] = ()) -> list[optuna.trial.FrozenTrial]:
    """Returns the trials that have ended, without those of some numbers."""
    trials = search.study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state.is_finished() and trial.number not in but]


def _train(
    search: SpaceSearch, cell: Cell, source: Source, directory: Path | None, device: str
) -> Ending:
    history: list[Metrics] = []

    def on_epoch(metrics: Metrics) -> None:
        history.append(metrics)
        if search.report([metrics]) is not None:
            raise _Pruned

    try:
        result = fit(
            cell.training, source=source, directory=directory, device=device, on_epoch=on_epoch
        )
    except _Pruned:
        return "pruned", PartialResult.of(history)
    except DivergenceError:
        return "diverged", PartialResult.of(history)
    return "finished", result


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; see the module's docstring."""
    parser = command(
        "python -m hpo.optuna_study",
        __doc__,
        shared(
            "data_root",
            dataset={"action": "store", "default": "digits", "help": "default: %(default)s"},
            preset={"choices": presets.PRESETS},
            device={"choices": None, "help": "default: the GPU of this machine where it has one"},
        ),
    )
    add = parser.add_argument
    add("--storage", default="sqlite:///alpha.db", metavar="URL|FILE.log")
    add("--checkpoints", type=place, default="results", metavar="DIR")
    args = parser.parse_args(arguments)
    try:
        if ":/" in args.checkpoints:
            raise ValueError(f"--checkpoints is a folder of this machine, got {args.checkpoints}")
        args.dataset = canonical(args.dataset)
        with output_folder.locked(Path(args.checkpoints).absolute()), optuna_silenced():
            return _search(args)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it was", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, optuna.exceptions.OptunaError) as error:
        print(f"optuna_study: error: {error}", file=sys.stderr)
        return 2


def _search(args: Namespace) -> int:
    base = presets.training(args.dataset, args.preset)
    source = load_source(args.dataset, root=args.data_root, image_size=base.image_size)
    search = search_alpha(
        presets.fit_to(base, source),
        presets.search(args.preset),
        storage=open_storage(args.storage),
        source=source,
        checkpoints=args.checkpoints,
        device=chosen_device(args.device),
        on_trial=lambda trial: print(_describe(trial), flush=True),
    )
    print(f"best alpha on {args.dataset}: {search.best()['alpha']:.4g}")
    return 0


def _describe(trial: optuna.trial.FrozenTrial) -> str:
    values = trial.intermediate_values
    value = trial.value if trial.value is not None else values.get(max(values, default=0))
    last = "-" if value is None else f"{value:.2f} %"
    return (
        f"trial {trial.number}: alpha {trial.params['alpha']:.4g}, validation error {last} "
        f"after {len(values)} epochs, {trial.state.name.lower()}"
    )


if __name__ == "__main__":
    sys.exit(main())
