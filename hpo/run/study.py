"""A study from its command line to its table.

What it needs beyond its flags (Ray, Optuna, MLflow, pandas, SciPy) is imported when they are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hpo.command_line import Adapted, parse
from hpo.command_line.statuses import INTERRUPTED, UNUSABLE
from hpo.run.early_end import EarlyEnd
from hpo.study.comparisons import NOTHING_DECLARED, Comparisons
from hpo.study.rows import StudyRow
from hpo.study.standard_streams import say

if TYPE_CHECKING:
    from hpo.report.outcome import ExtraReport
    from hpo.tracking.tracker import StudyTracker


def run_study(
    study: str,
    rows: Sequence[StudyRow],
    description: str,
    arguments: Sequence[str] | None = None,
    *,
    extras: Sequence[ExtraReport] = (),
    figure: ExtraReport | None = None,
    contenders: Sequence[StudyRow] = (),
    adapted: Adapted | None = None,
    comparisons: Comparisons = NOTHING_DECLARED,
    tracker: type[StudyTracker] | None = None,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> int:
    """Trains what is missing and reports everything; the `main` of a script in `studies/`.

    Everything that can be wrong with flags, data, folders and servers is checked before the first
    training.

    Args:
        study: the study's name, also of its files and its MLflow experiment.
        rows: of its table.
        description: the script's docstring, shown by --help.
        arguments: the command line, `sys.argv[1:]` by default.
        extras: parts of the report that this study has beside the table and the labels to look at
            first, in this order. One that fails is named in an error, and the rest of the report
            stands.
        figure: of a study that is a figure; first of the extras. The files of the study's name are
            its own, and those of the table are called STUDY-errors.
        contenders: rows that the preset `contest` has besides.
        adapted: what this study makes of the preset's training, before the user's own settings.
        comparisons: which of them the study was made for, and what shows that it can answer.
        tracker: a writer of MLflow that does more than the ordinary one.
        defaults: of flags that start elsewhere in this study, such as {"label_noise": 0.4}.

    Returns:
        The exit status: 0 if all cells came to an end, those that diverged among them.

    Examples:
        >>> import core, hpo
        >>> row = hpo.StudyRow(hpo.Row("none", "No MixUp", "none", "none"), core.NoMix())
        >>> def main(arguments=None):
        ...     return hpo.run_study("mine", [row], "A study of my own.", arguments)
        >>> main(["--rows", "beta-1"])  # the line on standard error says that there is no such row
        2
    """
    end = EarlyEnd(fresh=True)  # nothing of it is there yet
    try:
        budgeted = any(row.strategy is not None for row in rows)
        few_labels = any(row.semi is not None for row in rows)
        options = parse(
            study,
            description,
            arguments,
            budgeted=budgeted,
            semi_supervised=few_labels,
            defaults=defaults,
        )
        end.fresh = options.fresh
        chosen = options.chosen(rows, contenders)
    except (ValueError, OSError) as error:
        say(f"{study}: error: {error}")
        return UNUSABLE
    except KeyboardInterrupt:
        say(end.interrupted(study))
        return INTERRUPTED
    try:
        from hpo.run.work import worked

        return worked(
            study,
            chosen,
            options,
            about=description.strip().partition("\n")[0],
            extras=extras,
            figure=figure,
            adapted=adapted,
            comparisons=comparisons,
            tracker=tracker,
            end=end,
        )
    except (KeyboardInterrupt, SystemExit):
        say(end.interrupted(study))
        return INTERRUPTED
