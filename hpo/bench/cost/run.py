"""This module runs the cost study from its command line to its report."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from core.data import Source, load_source
from hpo.bench.cost import presets, report, tracked
from hpo.bench.cost.bench import Case, Setting
from hpo.bench.cost.command_line import CostOptions, parse
from hpo.bench.cost.contenders import VANILLA, Contender, peer_versions
from hpo.bench.cost.earlier import code_of
from hpo.bench.cost.figure import cost_figure
from hpo.bench.cost.measure import measure
from hpo.bench.cost.presets import FIT
from hpo.bench.cost.records import Group, GroupStore, group_id
from hpo.bench.cost.report import title
from hpo.bench.cost.whole_fit import measure_fit, rows
from hpo.cells.store import StoreError
from hpo.command_line.statuses import CRASHED, INTERRUPTED, UNUSABLE
from hpo.report.style import save_figure
from hpo.run.early_end import EarlyEnd
from hpo.storage import output_folder
from hpo.study.progress import Progress, clock
from hpo.tracking.tracker import (
    StudyTracker,
    TrackingError,
    check_tracking_uri,
    default_tracking_uri,
)

STUDY = "cost"


def run_cost(description: str, arguments: Sequence[str] | None = None) -> int:
    """Measures what is missing, reports everything; the `main` of `studies/cost.py`.

    Args:
        description: the script's docstring, shown by --help.
        arguments: the command line, `sys.argv[1:]` by default.

    Returns:
        The exit status: `CRASHED` where one of our own contenders failed; 0 also where peers could
        not be measured or memory ran out.
    """
    end = EarlyEnd(kept="measured groups")
    try:
        options = parse(description, arguments)
        end.fresh = options.fresh
        with output_folder.locked(options.output):
            return _run(options, end)
    except (ValueError, OSError, StoreError, TrackingError) as error:
        print(f"{STUDY}: error: {error}", file=sys.stderr)
        return UNUSABLE
    except (KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code in (0, 2):  # --help, a flag unknown
            raise
        print(end.interrupted(STUDY), file=sys.stderr)
        return INTERRUPTED


@dataclass(frozen=True)
class _Planned:
    """A planned group is one that the study is made of, measured or not.

    That of whole epochs has no contenders but the rows of `hpo.bench.cost.whole_fit`.
    """

    case: Case
    setting: Setting
    contenders: tuple[Contender, ...] = ()
    before: Path | None = None

    @property
    def id(self) -> str:
        names = [contender.name for contender in self.contenders]
        if self.case.part == FIT:
            names = [row.name for row in rows(self.setting.device, self.before)]
            names += [code_of(self.before)] if self.before is not None else []
        return group_id(self.case, self.setting, names, peer_versions(names))


def plan(options: CostOptions) -> list[_Planned]:
    """Returns the table's groups, the growth's, with fewer rounds and contenders, then the fits."""
    few = replace(options.setting, repeats=max(2, options.setting.repeats // 3))
    growing = tuple(c for c in options.contenders if c.name in (VANILLA, *presets.GROWTH))
    fit = replace(options.setting, autocast=None, channels_last=False)
    parts = {"main": (options.setting, options.contenders), FIT: (fit, ())}
    return [
        _Planned(case, *parts.get(case.part, (few, growing)), before=options.before)
        for case in options.cases
    ]


def _run(options: CostOptions, end: EarlyEnd) -> int:
    begun = time.monotonic()
    source = load_source(options.setting.dataset, root=options.data_root)
    store = GroupStore(options.output)
    previous = output_folder.study_id(options.output, STUDY)
    identity = previous
    if options.fresh:
        check_tracking_uri(options.tracking_uri or default_tracking_uri(options.output))
        store.set_aside()
        end.fresh = False
        identity = output_folder.study_id(options.output, STUDY, fresh=True)
    planned = plan(options)
    if not planned:
        raise ValueError(
            f"the preset {options.preset} measures none of the models chosen in this way; choose "
            "others, or another preset"
        )
    settings = asdict(options.setting)
    del settings["seed"]  # the same in all
    with StudyTracker(
        options.tracking_uri,
        output=options.output,
        experiment=STUDY,
        study_id=identity,
        previous_study_id=previous if options.fresh else None,
        params={"preset": options.preset, **settings},
    ) as tracker:
        progress = Progress()
        where = os.path.relpath(options.output)
        progress.say(f"{STUDY}: {len(planned)} models and sizes, results in {where}")
        groups = [
            _measured(part, store, source, options, tracker, progress, f"{i}/{len(planned)}")
            for i, part in enumerate(planned, 1)
        ]
        _report(groups, options, tracker, time.monotonic() - begun)
    ours = [m for g in groups for m in g.measurements if m.kind != "peer" and m.error is not None]
    return CRASHED if any(m.error != "out of memory" for m in ours) else 0


def _measured(
    planned: _Planned,
    store: GroupStore,
    source: Source,
    options: CostOptions,
    tracker: StudyTracker,
    progress: Progress,
    place: str,
) -> Group:
    """Returns the stored group, or else measures and stores it; its runs are complete then."""
    identity = planned.id
    what = title({**asdict(planned.case), "variant": planned.setting.variant})
    group = store.load(identity)
    if group is None:
        if planned.case.part == FIT:
            progress.say(f"{place} {what}: whole epochs")
            group = measure_fit(planned.case, planned.setting, source, before=planned.before)
        else:
            group = measure(
                planned.case,
                planned.setting,
                planned.contenders,
                source,
                data_root=options.data_root,
                say=lambda message: progress.say(f"{place} {what}: {message}"),
            )
        store.save(identity, group)
    else:
        progress.say(f"{place} {what}: kept from before")
    for record in tracked.records(group):
        tracker.end_cell(record)
    return group


def _report(
    groups: Sequence[Group], options: CostOptions, tracker: StudyTracker, seconds: float
) -> None:
    frame = report.build_table(groups)
    files = report.write_report(options.output, frame, preamble(groups, options.preset))
    steps = frame[frame["part"] != FIT]
    if steps["time_ratio"].notna().any():
        files.append(save_figure(cost_figure(steps), options.output / f"{STUDY}.png"))
    tracker.log_figure_files(files)
    print(report.to_markdown(frame))
    measured = int(frame["time_ratio"].notna().sum())
    print(f"\n{STUDY}: {measured} of {len(frame)} rows measured; this run took {clock(seconds)}")
    print("files: " + ", ".join(map(os.path.relpath, files)))
    print(f"look at the runs: {tracker.how_to_open}")


def preamble(groups: Sequence[Group], preset: str) -> str:
    """Returns what was measured and where, for the head of the Markdown report."""
    setting = groups[0].setting
    precision = f"{setting.autocast} autocast" if setting.autocast else "float32"
    layout = ", channels_last" if setting.channels_last else ""
    lines = [f"Preset `{preset}`, images of {setting.dataset}, {precision}{layout}."]
    places = {", ".join(f"{k} {v}" for k, v in sorted(g.machine.items())) for g in groups}
    lines += [f"Measured with {text}." for text in sorted(places)]
    if len(places) > 1:
        lines.append("Measured in different places: compare times within a table only.")
    return "\n".join(lines)
