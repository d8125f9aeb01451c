"""The bench around `core`: studies of many trainings, searched, resumed, tracked and compared.

A study is rows; `run_study` trains them on every data set and seed, and writes the table:

    from core.policies import LearnedConfig, NoMix
    from hpo import Row, StudyRow, controls, run_study

    metamixup = StudyRow(Row("metamixup", "MetaMixUp", "learned λ", "learned"), LearnedConfig())
    none = StudyRow(Row("none", "No MixUp", "none", "none"), NoMix())
    run_study("mine", [none, metamixup, *controls(metamixup)], "A study of my own.")

Its command line has every setting of a training as a flag. What was trained is read again with
`load_records`; `paired_comparison` and `holm` compare rows over the seeds that they share.
`contrast` is a study of objects of your own, from Python; `compare` sets training code of any kind
side by side; `search_alpha` is the search for α alone, without Ray. Names are imported when they
are first used.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from core.lazy import lazily

if TYPE_CHECKING:
    from hpo.analyses.comparison import compare
    from hpo.cells.record import CellRecord
    from hpo.optuna_study import search_alpha
    from hpo.report.outcome import Extra, Outcome
    from hpo.report.records import load_records
    from hpo.report.statistics import holm, paired_comparison
    from hpo.run.contrast import contrast
    from hpo.run.study import run_study
    from hpo.study.recipes import SEARCHED_ALPHA, FilteredBy, FrozenFrom, Searched
    from hpo.study.rows import Row, StudyRow, controls

__all__ = [
    "SEARCHED_ALPHA",
    "CellRecord",
    "Extra",
    "FilteredBy",
    "FrozenFrom",
    "Outcome",
    "Row",
    "Searched",
    "StudyRow",
    "compare",
    "contrast",
    "controls",
    "holm",
    "load_records",
    "paired_comparison",
    "run_study",
    "search_alpha",
]

_NEEDED = (
    "ray", "optuna", "mlflow", "pandas", "scipy", "sklearn", "matplotlib", "filelock", "tqdm",
    "markdown_it",
)  # fmt: skip
_MISSING = [name for name in _NEEDED if find_spec(name) is None]
if _MISSING:
    raise ImportError(
        f"hpo needs {', '.join(_MISSING)}, not installed here: pip install 'metamixup-hpo[hpo]' "
        "(core needs none of it)"
    )

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__)
