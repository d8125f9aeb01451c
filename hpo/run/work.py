"""This module trains what a study lacks, and writes, tracks and prints its report."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.data.imported import given
from core.lazy import pandas as pd
from hpo.analyses.anytime.report import write_anytime_report
from hpo.analyses.labels.errors import label_errors
from hpo.analyses.pseudo_labels import pseudo_labels
from hpo.cells.record import CellRecord
from hpo.cells.store import CellStore, StoreError
from hpo.cells.summary import SummaryRow
from hpo.command_line import Adapted, Options
from hpo.command_line.checks import slow_precision
from hpo.command_line.printing import printed, shown
from hpo.command_line.statuses import CRASHED, UNUSABLE
from hpo.complete_tracking import send_missing
from hpo.report import table
from hpo.report.controls import controls_report
from hpo.report.few_label_table import semi_table, summary_metrics
from hpo.report.markdown import to_markdown
from hpo.report.outcome import Extra, ExtraReport, Outcome
from hpo.report.positive_control import positive_control
from hpo.report.preamble import memory_lines, preamble_of, preset_line
from hpo.report.study_figure import study_figure
from hpo.report.style import save_figure
from hpo.report.theme import themed
from hpo.run.data import look_at_data, prepare
from hpo.run.early_end import EarlyEnd
from hpo.search.space_search import optuna_silenced
from hpo.storage import output_folder
from hpo.study.comparisons import NOTHING_DECLARED, Comparisons
from hpo.study.plan import Plan, SourceKey
from hpo.study.progress import Progress, clock
from hpo.study.rows import StudyRow
from hpo.study.standard_streams import say
from hpo.study.study_run import StudyError, StudyRun
from hpo.tracking.missing import Missing
from hpo.tracking.tracker import (
    StudyTracker,
    TrackingError,
    check_tracking_uri,
    default_tracking_uri,
)

if TYPE_CHECKING:
    from core.data import Source

Tell = Callable[[str, Sequence[str], Sequence[Path]], bool]
"""Shows the lines of a study's report, which the files hold too; returns whether that worked."""


@dataclass(frozen=True)
class Ended:
    """This is what a study ended with.

    Attributes:
        records: of all cells, sorted by id.
        frame: the table; of a study of strategies it has no row.
        text: the report in Markdown.
        files: what was written.
        whole: no cell's worker and no part of the report failed.
    """

    records: Sequence[CellRecord]
    frame: pd.DataFrame
    text: str
    files: Sequence[Path]
    whole: bool


def worked(
    study: str,
    rows: Sequence[StudyRow],
    options: Options,
    *,
    about: str,
    extras: Sequence[ExtraReport],
    figure: ExtraReport | None,
    adapted: Adapted | None,
    comparisons: Comparisons,
    tracker: type[StudyTracker] | None,
    end: EarlyEnd,
) -> int:
    """Runs a study whose flags are read; returns the exit status. See `run_study`."""
    try:
        figures = [] if figure is None else [figure]
        with themed(options.theme):
            ended = run_rows(
                study,
                rows,
                options,
                extras=[*figures, controls_report, label_errors, pseudo_labels, *extras],
                table=f"{study}-errors" if figures else study,
                about=about,
                adapted=adapted,
                comparisons=comparisons,
                tracker=tracker or StudyTracker,
                end=end,
            )
        return 0 if ended.whole else CRASHED
    except (ValueError, ImportError, OSError, StoreError, StudyError, TrackingError) as error:
        say(f"{study}: error: {error}{end.way_out(error)}")
        return UNUSABLE


def run_rows(
    study: str,
    rows: Sequence[StudyRow],
    options: Options,
    *,
    extras: Sequence[ExtraReport] = (controls_report, label_errors),
    table: str | None = None,
    about: str = "",
    adapted: Adapted | None = None,
    comparisons: Comparisons = NOTHING_DECLARED,
    tracker: type[StudyTracker] = StudyTracker,
    tell: Tell = printed,
    end: EarlyEnd | None = None,
) -> Ended:
    """Trains what is missing and reports everything, on an output folder that is held meanwhile.

    Args:
        study, rows, extras, adapted, comparisons, tracker: see `run_study`; extras are all parts.
        options: what was asked for.
        table: name of the table's files; the study's where it is None.
        about: a line on the study, for MLflow.
        tell: shows the report.
        end: what is told at an early end; knows from here that results were set aside.

    Raises:
        ValueError, OSError, StoreError, StudyError, TrackingError: the study cannot be run.
    """
    begun = time.monotonic()
    output, storage = options.output, options.storage
    with (
        output_folder.locked(output),
        output_folder.held(output, storage),
        given(options.given.objects),
        optuna_silenced(),
    ):
        plan, sources = prepare(study, rows, options, adapted, comparisons)
        identity, previous = _identity(study, options)
        if end is not None:
            end.fresh = False
        tracking = tracker(
            options.tracking_uri,
            output=output,
            experiment=study,
            study_id=identity,
            previous_study_id=previous,
            params={
                "preset": options.preset,
                "seeds": options.seeds,
                **({"first_seed": options.first_seed} if options.first_seed else {}),
                **({} if options.labels is None else {"labels": options.labels}),
                **options.overrides,
            },
            description=about,
            storage=storage,
        )
        return _run(plan, sources, options, extras, table or study, tracking, tell, begun)


def _identity(study: str, options: Options) -> tuple[str, str | None]:
    """Returns under which identity the study is tracked, and under which it was before where its
    results are now set aside, to be trained again."""
    previous = output_folder.study_id(options.storage, study)
    if not options.fresh:
        return previous, None
    uri = options.tracking_uri
    uri = default_tracking_uri(options.output) if uri is None else uri
    check_tracking_uri(uri)
    if Missing.all_in(options.output, uri):  # before the records are moved
        send_missing(options.output, uri, options.storage)
    output_folder.set_aside(options.storage)
    return output_folder.study_id(options.storage, study, fresh=True), previous


def _run(
    plan: Plan,
    sources: Mapping[SourceKey, Source],
    options: Options,
    extras: Sequence[ExtraReport],
    table: str,
    tracking: StudyTracker,
    tell: Tell,
    begun: float,
) -> Ended:
    study = plan.study
    with tracking as tracker, Progress() as progress:
        about = "about " if plan.budget is not None else ""
        progress.say(f"{study}: {about}{plan.size} trainings, results in {shown(options.output)}")
        seen = look_at_data(
            options.output / f"{study}-data.json",
            plan,
            sources,
            near=options.near_duplicates,
            say=progress.say,
        )
        fingerprints = {
            dataset: source.fingerprint() + options.given.digest
            for (dataset, _), source in sources.items()
        }
        store = CellStore(options.storage)
        run = StudyRun(plan, store, tracker, progress, fingerprints, sources)
        # Nothing left to train: no need to wait for Ray.
        if not run.settled:
            slow = slow_precision(plan.base.values(), options.device)
            if slow is not None and options.address is None:  # a cluster has other processors
                progress.say(slow)
            from hpo.cluster import runner
            from hpo.cluster.here import run_here
            from hpo.cluster.session import Demand
            from hpo.cluster.trained_policies import own_policies

            demand = Demand(
                address=options.address,
                workers=options.workers,
                threads=options.threads,
                gpus=options.gpus_per_cell,
                data_bytes=sum(map(runner.pixel_bytes, sources.values())),
            )
            train = run_here if options.workers == 0 else runner.run_on_ray
            train(
                run,
                sources,
                demand,
                output=options.output,
                storage=options.storage,
                device=options.device,
                objects={**own_policies(plan), **options.given.objects},
            )
        run.tidy()
        progress.close()
        seconds = time.monotonic() - begun
        return _report(plan, run, sources, tracker, options, extras, table, seconds, tell, seen)


def _report(
    plan: Plan,
    run: StudyRun,
    sources: Mapping[SourceKey, Source],
    tracker: StudyTracker,
    options: Options,
    extras: Sequence[ExtraReport],
    table: str,
    seconds: float,
    tell: Tell,
    seen: Path,
) -> Ended:
    """Writes, tracks and shows everything, with the file of what was seen of the data."""
    records = run.records
    data = [source.description for source in sources.values()]
    preset = None if options.given.sources else options.preset
    preamble = preamble_of(plan, records, preset, data)
    if plan.table_rows:
        complete, frame, files, text, summary = _table(
            plan, records, sources, options, extras, table, preamble
        )
    else:
        written = write_anytime_report(plan, records, options.output, preamble)
        complete, frame, files = True, pd.DataFrame(), written.files
        text, summary = written.markdown, written.summary
    files = [*files, seen]
    tracker.summarise(summary)
    tracker.log_figure_files(files)
    tracker.describe("\n\n".join([preamble.strip(), text]))
    trained = sum(record.result.train_seconds for record in records)
    lines = [
        text,
        *(f"\n{line}" for line in [preset_line(plan, preset), *memory_lines(records)]),
        f"\n{plan.study}: {len(records)} cells, {clock(trained)} of training in all; this run took "
        f"{clock(seconds)}" + (f" on {run.workers} workers" if run.workers else ""),
        "files: " + ", ".join(shown(path) for path in files),
        f"look at the runs: {tracker.how_to_open}",
    ]
    shown_whole = tell(plan.study, lines, files)
    return Ended(records, frame, text, files, shown_whole and complete and not run.crashed)


def _table(
    plan: Plan,
    records: Sequence[CellRecord],
    sources: Mapping[SourceKey, Source],
    options: Options,
    extras: Sequence[ExtraReport],
    name: str,
    preamble: str,
) -> tuple[bool, pd.DataFrame, list[Path], str, list[SummaryRow]]:
    """Writes a table's report; returns if it is complete, table, files, text, MLflow's lines."""
    shown_rows = [row.row for row in plan.table_rows]
    frame = table.build_table(records, shown_rows, plan.datasets, plan.comparisons)
    if any(row.semi is not None for row in plan.rows):
        frame = semi_table(frame, shown_rows, records, plan.comparisons)
    files = table.write_report(options.output, name, frame, preamble)
    outcome = Outcome(plan, records, sources, frame, options.output)

    def figure(outcome: Outcome) -> Extra:
        needed = {key for row in shown_rows for key in row.needs}
        drawn = study_figure(outcome.frame, outcome.records, options.cost, needed)
        return Extra(files=[save_figure(drawn, options.output / f"{name}.png")])

    parts = [positive_control, figure, *extras]
    ahead, *made = (_made(report_of, outcome) for report_of in parts)
    head = "" if ahead is None else ahead.markdown
    complete = [extra for extra in made if extra is not None]
    appendix = "\n\n".join(extra.markdown.strip() for extra in complete if extra.markdown)
    if head or appendix:
        table.write_report(options.output, name, frame, f"{preamble}\n\n{head}".strip(), appendix)
    files += ahead.files if ahead is not None else []
    files = [*files, *(path for extra in complete for path in extra.files)]
    metrics = summary_metrics(frame)
    for extra in complete:
        for key, values in extra.metrics.items():
            metrics.setdefault(key, {}).update(values)
    text = "\n\n".join(part for part in (head, to_markdown(frame), appendix) if part)
    summary = table.summary_rows(frame, metrics)
    return ahead is not None and len(complete) == len(made), frame, files, text, summary


def _made(report_of: ExtraReport, outcome: Outcome) -> Extra | None:
    """Returns one more part of the table, or None if it failed, which is said."""
    try:
        return report_of(outcome)
    except Exception as error:  # whatever is wrong with it, the report of the study stands
        place = traceback.extract_tb(error.__traceback__)[-1]
        name = getattr(report_of, "__name__", repr(report_of))
        say(
            f"{outcome.plan.study}: error: the part {name} of the report failed: "
            f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
        )
        return None
