"""What MLflow's UI shows of a study's experiment without a click: saved views and a description.

The UI (MLflow 3.16 and later) lists under *Views* what tags of an experiment say, and opens one by
`#/experiments/ID/runs?viewStateShareKey=KEY`; with `&compareRunsMode=CHART` as charts. So a study
brings its views with it, to any store and to everyone who looks; older versions ignore these tags.
`mlflow/searches.yaml` has the same as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpo.tracking.details import MAP_KEY

NOTE = "mlflow.note.content"
"""Tag of an experiment or a run that the UI shows as its description, in Markdown."""

_NOTE_LENGTH = 8000  # MLflow's limit for a tag of a run
VERSION_TAG, _VERSION = "views", "1"
# A run's parameters and metrics, not its tags, are what a chart can have on an axis.
_Chart = Mapping[str, Any]
_TABLE, _OTHERS = "study", "others"
_NAME = "attributes.`Run Name`"


@dataclass(frozen=True)
class View:
    """One entry under *Views*.

    Attributes:
        key: its part of the address.
        name: as listed.
        filter: in MLflow's search syntax.
        order: what the runs are sorted by, the largest first unless ``ascending``.
        columns: of the list of runs.
        grouped: one row a method, its seeds averaged and folded below it; curves are means.
        charts: shown first when the view is opened as charts.
        tall: with room for pictures.
    """

    key: str
    name: str
    filter: str
    order: str
    columns: tuple[str, ...]
    ascending: bool = True
    grouped: bool = False
    charts: tuple[_Chart, ...] = ()
    tall: bool = False

    @property
    def tag(self) -> str:
        """Returns the experiment's tag that holds it."""
        return f"mlflow.sharedViewState.{self.key}"

    def state(self) -> dict[str, Any]:
        """Returns what the UI would have written itself, as far as it is not the default."""
        charts = [
            {"uuid": f"{self.key}-{number}", "metricSectionId": _TABLE, "deleted": False,
             "isGenerated": False, "runsCountToCompare": 100, **chart}
            for number, chart in enumerate(self.charts)
        ]  # fmt: skip
        columns = [_quoted(column) for column in self.columns]
        by = {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": "method"}],
        }
        state: dict[str, Any] = {
            "searchFilter": self.filter,
            "orderByKey": _quoted(self.order),
            "orderByAsc": self.ascending,
            "selectedColumns": columns,
            "columnOrder": [_NAME, *columns],
            "columnWidths": {_NAME: 250} | dict.fromkeys(columns, 135),
            "runsHiddenMode": "FIRST_20_RUNS",
            "groupBy": by if self.grouped else None,
        }
        if charts:
            size = {"columns": 2, **({"cardHeight": 640} if self.tall else {})}
            state["compareRunCharts"] = charts
            state["compareRunSections"] = [
                {**_section(_TABLE, self.name, shown=True), **size},
                _section(_OTHERS, "Model metrics", shown=False),
            ]
            state["isAccordionReordered"] = True
        return state


def _section(key: str, name: str, *, shown: bool) -> dict[str, Any]:
    return {"uuid": key, "name": name, "display": shown, "isReordered": False,
            "deleted": False, "isGenerated": False}  # fmt: skip


def _quoted(name: str) -> str:
    """Returns ``metrics.val_error`` as the UI names a column: the name in backquotes."""
    kind, _, rest = name.partition(".")
    return f"{kind}.`{rest}`"


def _line(metric: str) -> _Chart:
    # Smoothed, as lines are otherwise, a histogram would reach where no λ is.
    rough = {"lineSmoothness": 0, "useGlobalLineSmoothing": False}
    return {"type": "LINE", "metricKey": metric, "selectedMetricKeys": [metric], **rough}


def _parallel(params: list[str], metrics: list[str]) -> _Chart:
    return {"type": "PARALLEL", "selectedParams": params, "selectedMetrics": metrics}


def _scatter(x: tuple[str, str], metric: str) -> _Chart:
    kind, key = x
    axes = {"xaxis": {"type": kind, "key": key}, "yaxis": {"type": "METRIC", "key": metric}}
    return {"type": "SCATTER", **axes}


_FINAL = 'tags.kind = "cell" and tags.purpose = "final"'
_SUMMARY = ("tags.dataset", "metrics.mean_error", "metrics.ci_low", "metrics.ci_high",
            "metrics.n_seeds", "metrics.train_seconds")  # fmt: skip

VIEWS: tuple[View, ...] = (
    View(
        "table",
        "Table: a row a method",
        'tags.kind = "summary"',
        "metrics.mean_error",
        _SUMMARY,
        charts=(
            _parallel(["method"], ["train_seconds", "mean_error"]),
            {"type": "BAR", "metricKey": "mean_error"},
            _scatter(("METRIC", "train_seconds"), "mean_error"),
        ),
    ),
    View(
        "trainings",
        "Trainings by method",
        _FINAL,
        "metrics.test_error",
        ("tags.seed", "metrics.test_error", "metrics.val_error", "metrics.train_seconds",
         "metrics.lam_mean"),
        grouped=True,
        charts=(
            _line("val_error"),
            _line("lam_density"),
            _line("train_loss"),
            _line("lam_q50"),
            _parallel([], ["train_seconds", "val_error", "test_error"]),
        ),
    ),
    View(
        "pairs",
        "λ by class pair",
        f"{_FINAL} and metrics.lam_pair_spread > 0",
        "tags.method",
        ("tags.method", "tags.seed", "metrics.lam_pair_spread", "metrics.test_error"),
        charts=({"type": "IMAGE", "imageKeys": [MAP_KEY], "step": 1}, _line("lam_pair_spread")),
        tall=True,
    ),
    View(
        "search",
        "Search for α, best first",
        'tags.kind = "cell" and tags.purpose = "search"',
        "metrics.val_error",
        ("tags.method", "params.policy.alpha", "metrics.val_error", "metrics.epoch",
         "tags.status"),
        charts=(_scatter(("PARAM", "policy.alpha"), "val_error"),),
    ),
    View(
        "failed",
        "What went wrong",
        'tags.kind = "cell" and attributes.status = "FAILED"',
        "attributes.start_time",
        ("tags.method", "tags.seed", "tags.error"),
        ascending=False,
    ),
    View(
        "studies",
        "Studies, with tables and figures",
        'tags.kind = "study"',
        "attributes.start_time",
        ("params.preset", "params.seeds"),
        ascending=False,
    ),
)  # fmt: skip


def experiment_tags(description: str = "") -> dict[str, str]:
    """Returns the tags of an experiment: its views, its description, that it trains models.

    Args:
        description: of the study; "" for none.
    """
    tags = {
        VERSION_TAG: _VERSION,
        "mlflow.experimentKind": "custom_model_development",  # or the UI speaks of prompts
    }
    for number, view in enumerate(VIEWS):
        # The UI sorts by time, the newest first.
        made = 1_750_000_000_000 - number
        saved = {"name": view.name, "createdAt": made, "updatedAt": made}
        tags[view.tag] = json.dumps({**saved, "state": json.dumps(view.state())})
    if description:
        tags[NOTE] = description
    return tags


def missing_tags(known: Mapping[str, str], description: str = "") -> dict[str, str]:
    """Returns what an experiment with the tags ``known`` lacks: all, unless it is up to date.

    So views that someone deleted or changed stay so, until a later version brings others.
    """
    return {} if known.get(VERSION_TAG) == _VERSION else experiment_tags(description)


def whole_lines(markdown: str) -> str:
    """Returns as many lines of the text as a description may have characters."""
    if len(markdown) <= _NOTE_LENGTH:
        return markdown
    end = markdown.rfind("\n", 0, _NOTE_LENGTH - 1)
    return markdown[: max(end, 0)] + "\n…"
