from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.entities import Experiment, Run

from core.policies import LearnedConfig, NoMix
from hpo.cells.record import CellRecord
from hpo.cells.summary import SummaryRow
from hpo.tracking.store import mlflow_settings
from hpo.tracking.tracker import StudyTracker
from hpo.tracking.views import NOTE, VIEWS, experiment_tags, missing_tags, whole_lines
from mlflow import MlflowClient

ROOT = Path(__file__).resolve().parents[3]
PAIRS = {"pair_epochs": [1, 2], "pair_lam": [[[0.1, 0.2], [0.3, None]], [[0.5, 0.6], [0.7, 0.8]]]}
REPORT = "Preset `smoke`.\n\n| Method | Error |\n|---|---|\n| none | 4.0 |"


def study(output: Path, experiment: str = "table2", **options: Any) -> StudyTracker:
    params = {"preset": "smoke", "seeds": 3}
    return StudyTracker(
        None, output=output, experiment=experiment, study_id="1", params=params, **options
    )


def stored(output: Path, name: str = "table2") -> tuple[MlflowClient, Experiment]:
    with mlflow_settings():
        client = MlflowClient(f"sqlite:///{output}/mlflow.db")
        experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return client, experiment


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Returns a study with a training of each kind, the learned ones with all that λ leaves."""
    folder = tmp_path_factory.mktemp("views")
    make_record: Callable[..., CellRecord] = request.getfixturevalue("make_record")
    epoch = {"epoch": 1, "val_error": 4.0, "train_loss": 1.0, "lam_q50": 0.4, "lam_mean": 0.5}
    learned = {"policy": LearnedConfig(), "findings": PAIRS, "history": [epoch]}
    with study(folder, description="Table II: a test.") as tracker:
        for record in (
            make_record("metamixup", test_error=3.0, **learned),
            make_record("metamixup", seed=1, test_error=2.0, **learned),
            make_record("none", policy=NoMix()),
            make_record("beta-search", purpose="search", status="pruned"),
            make_record("beta-2", status="diverged", error="its loss became NaN"),
        ):
            tracker.start_cell(record.cell)
            tracker.end_cell(record)
        tracker.summarise([SummaryRow("none", "digits", "", 3, 4.0, 3.5, 4.5, 10.0, 1e5)])
        tracker.describe(REPORT)
    return folder


@pytest.fixture(scope="module")
def by_view(output: Path) -> dict[str, list[Run]]:
    """Returns the runs of each view, as the store finds and sorts them."""
    client, experiment = stored(output)
    with mlflow_settings():
        return {
            view.key: client.search_runs(
                [experiment.experiment_id],
                view.filter,
                order_by=[f"{view.order} {'ASC' if view.ascending else 'DESC'}"],
            )
            for view in VIEWS
        }


def test_each_view_finds_its_runs(by_view: dict[str, list[Run]]) -> None:
    methods = {key: [run.data.tags.get("method") for run in runs] for key, runs in by_view.items()}
    assert methods == {
        "table": ["none"],
        "trainings": ["metamixup", "metamixup", "none", "beta-2"],
        "pairs": ["metamixup", "metamixup"],
        "search": ["beta-search"],
        "failed": ["beta-2"],
        "studies": [None],
    }
    assert [run.data.tags["seed"] for run in by_view["trainings"][:2]] == ["1", "0"], "best first"


def test_what_a_view_shows_is_there(by_view: dict[str, list[Run]]) -> None:
    """A metric that is renamed would leave an empty column or chart."""
    for view in VIEWS:
        runs = [run.data for run in by_view[view.key]]
        for column in view.columns:
            kind, _, name = column.partition(".")
            assert any(name in getattr(run, kind) for run in runs), column
        for chart in view.charts:
            axes = [chart[axis] for axis in ("xaxis", "yaxis") if axis in chart]
            named = {"METRIC": "metrics", "PARAM": "params"}
            wanted = [(named[axis["type"]], axis["key"]) for axis in axes]
            wanted += [("params", name) for name in chart.get("selectedParams", ())]
            wanted += [("metrics", name) for name in chart.get("selectedMetrics", ())]
            wanted += [("metrics", chart["metricKey"])] if "metricKey" in chart else []
            assert wanted or chart["imageKeys"]
            for kind, name in wanted:
                assert any(name in getattr(run, kind) for run in runs), (view.key, name)


def test_maps_of_class_pairs_lie_in_their_run(output: Path, by_view: dict[str, list[Run]]) -> None:
    client, _ = stored(output)
    for run in by_view["pairs"]:
        assert "mlflow.loggedImages" in run.data.tags
        names = [file.path for file in client.list_artifacts(run.info.run_id, "images")]
        assert len([name for name in names if name.endswith(".png")]) == 2
        assert all("lam_by_class_pair" in name for name in names)


def test_the_experiment_says_what_it_is_and_the_study_shows_its_report(
    output: Path, by_view: dict[str, list[Run]]
) -> None:
    _, experiment = stored(output)
    assert experiment.tags[NOTE] == "Table II: a test."
    [parent] = by_view["studies"]
    assert parent.data.tags[NOTE] == REPORT
    tags = experiment_tags("Table II: a test.")
    assert tags.items() <= experiment.tags.items()
    names = []
    for view in VIEWS:
        saved = json.loads(tags[view.tag])
        names.append((saved["createdAt"], saved["name"]))
        assert json.loads(saved["state"])["searchFilter"] == view.filter
        assert len(tags[view.tag]) < 5000  # the limit of MLflow before 3.6
    # The UI lists the newest first.
    assert [name for _, name in sorted(names, reverse=True)] == [view.name for view in VIEWS]


def test_a_view_that_was_deleted_stays_away_and_an_old_experiment_gets_all(output: Path) -> None:
    with study(output, "table3"):
        pass
    client, experiment = stored(output, "table3")
    for name in (VIEWS[0].tag, VIEWS[1].tag):
        client.delete_experiment_tag(experiment.experiment_id, name)
    with study(output, "table3", description="Table III."):
        pass
    tags = stored(output, "table3")[1].tags
    assert VIEWS[0].tag not in tags
    assert NOTE not in tags
    client.delete_experiment_tag(experiment.experiment_id, "views")  # as of an earlier version
    with study(output, "table3", description="Table III."):
        pass
    assert experiment_tags("Table III.").items() <= stored(output, "table3")[1].tags.items()
    assert missing_tags(experiment_tags(), "Table III.") == {}


def test_a_long_report_ends_with_a_whole_line() -> None:
    short = "a\nb"
    assert whole_lines(short) == short
    lines = [f"| row {number} |" for number in range(2000)]
    cut = whole_lines("\n".join(lines)).splitlines()
    assert len("\n".join(cut)) <= 8000 < len("\n".join(cut)) + 20
    assert cut[-1] == "…"
    assert cut[:-1] == lines[: len(cut) - 1]


def test_the_saved_searches_are_the_views() -> None:
    searches = yaml.safe_load((ROOT / "mlflow/searches.yaml").read_text())
    assert searches == [
        {
            "name": view.name,
            "key": view.key,
            "filter": view.filter,
            "order": f"{view.order} {'ASC' if view.ascending else 'DESC'}",
            "columns": list(view.columns),
        }
        for view in VIEWS
    ]
