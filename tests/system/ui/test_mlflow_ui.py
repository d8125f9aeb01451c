"""MLflow's UI as a reader meets it after a Table II: in a real browser, with pictures.

PICTURES=DIR keeps the screenshots; UI_OUTPUT=DIR looks at a study that is finished there instead of
training a small one. So were the README's made:

    UI_OUTPUT=results PICTURES=docs python -m pytest tests/system/ui
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import pytest
from mlflow.entities import Run
from PIL import Image

from hpo.tracking.store import mlflow_settings
from hpo.tracking.views import VIEWS
from mlflow import MlflowClient
from studies import table2
from tests.support.processes import free_port

ROWS = "none,beta-1,fixed-0.5,beta-search,metamixup"
STUDY = ["--preset", "smoke", "--seeds", "2", "--search-trials", "4", "--epochs", "4"]


@pytest.fixture(scope="module")
def output(
    tmp_path_factory: pytest.TempPathFactory, browser: Any, without_ray_in_module: None
) -> Path:
    """Returns the folder of a finished Table II."""
    if "UI_OUTPUT" in os.environ:
        return Path(os.environ["UI_OUTPUT"]).resolve()
    folder = tmp_path_factory.mktemp("table2")
    assert table2.main([*STUDY, "--rows", ROWS, "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def frame(output: Path) -> pd.DataFrame:
    """Returns what the study's own table says, by method."""
    return pd.read_csv(output / "table2.csv").set_index("method")


@pytest.fixture(scope="module")
def address(output: Path) -> Iterator[str]:
    """Yields the address of the UI that `make ui` and the study's last line start."""
    port = free_port()
    store = f"sqlite:///{output}/mlflow.db"
    command = ["ui", "--backend-store-uri", store, "--host", "127.0.0.1", "--port", f"{port}"]
    log = output / "ui.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command, "--workers", "1"],
            cwd=output,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # as the Makefile
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        for _ in range(600):
            assert server.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10).close()
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/#"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)
        log.unlink()


@pytest.fixture(scope="module")
def runs(output: Path) -> Callable[[str], list[Run]]:
    """Returns the study's runs of a kind."""
    with mlflow_settings():
        client = MlflowClient(f"sqlite:///{output}/mlflow.db")
        experiment = client.get_experiment_by_name("table2")

    def find(kind: str) -> list[Run]:
        with mlflow_settings():
            return list(client.search_runs([experiment.experiment_id], f'tags.kind = "{kind}"'))

    return find


@pytest.fixture(scope="module")
def experiment(address: str, runs: Callable[[str], list[Run]]) -> str:
    """Returns the address of the study's experiment."""
    return f"{address}/experiments/{runs('study')[0].info.experiment_id}"


@pytest.fixture
def keep(browser: Any, tmp_path: Path) -> Callable[[str], None]:
    """Takes a picture: a few colours do, and the bars over the charts are for a mouse."""

    def take(name: str) -> None:
        # Where this machine keeps its files is nobody's business.
        browser.value(
            "[...document.querySelectorAll('*')].filter(e => e.textContent.startsWith('Path: '))"
            ".forEach(e => e.style.visibility = 'hidden')"
        )
        browser.value("document.querySelector('[aria-label=\"Hide banner\"]')?.click()")
        browser.value(
            "document.head.insertAdjacentHTML('beforeend', '<style>.modebar, "
            '[data-component-id^="mlflow.assistant"] {display: none !important}</style>\')'
        )
        time.sleep(1)  # what was drawn last comes to rest
        folder = Path(os.environ.get("PICTURES", tmp_path))
        path = browser.picture(folder / f"{name}.png")
        with Image.open(path) as taken:
            picture = taken.convert("RGB").quantize(192)
        picture.save(path, optimize=True)
        assert path.stat().st_size < 250_000
        assert len(picture.getcolors()) > 20, "there is something on it"

    return take


def cells(browser: Any, column: str) -> dict[str, str]:
    """Returns the texts of a column of the list of runs, by row."""
    script = """Object.fromEntries([...document.querySelectorAll('.ag-row [col-id="COLUMN"]')]
        .map(cell => [cell.closest('.ag-row').getAttribute('row-id'), cell.innerText.trim()]))"""
    return dict(browser.value(script.replace("COLUMN", column)))


def test_trainings_are_grouped_by_method_with_the_tables_means(
    browser: Any, experiment: str, frame: pd.DataFrame, keep: Callable[[str], None]
) -> None:
    n_seeds = int(frame["n_seeds"].max())
    browser.size(1600, 1000)
    browser.open(f"{experiment}/runs?viewStateShareKey=trainings")
    browser.wait(f"document.querySelectorAll('.ag-row').length > {2 * n_seeds}")
    browser.wait("document.body.innerText.includes('(average)')")
    keep("mlflow-runs")
    browser.size(1600, 300 + 40 * (n_seeds + 2) * len(frame))  # it draws what is in the window
    browser.wait(f"document.querySelectorAll('.ag-row [col-id]').length > {7 * len(frame)}")
    names = cells(browser, "attributes.`Run Name`")
    shown = cells(browser, "metrics.`test_error`")
    actual = {row: re.search(r"Group: (\S+)\s+(\d+)", name) for row, name in names.items()}
    groups = {match[1]: (row, int(match[2])) for row, match in actual.items() if match}
    assert set(groups) == set(frame.index)
    for method, (row, members) in groups.items():
        assert members == n_seeds
        mean = float(shown[row].removesuffix("(average)"))
        assert mean == pytest.approx(frame.loc[method, "mean_error"], abs=1e-4)
    assert len(names) == len(frame) * (1 + n_seeds)


def test_the_table_is_there_in_order_and_so_are_the_other_views(
    browser: Any, experiment: str, frame: pd.DataFrame
) -> None:
    browser.size(1600, 1000)
    browser.open(f"{experiment}/runs?viewStateShareKey=table")
    browser.wait(f"document.querySelectorAll('.ag-row [col-id]').length > {6 * len(frame)}")
    errors = [float(text) for text in cells(browser, "metrics.`mean_error`").values()]
    assert sorted(errors) == pytest.approx(sorted(frame["mean_error"]), abs=1e-4)
    headers = browser.value(
        "[...document.querySelectorAll('.ag-header-cell[col-id^=metrics]')]"
        ".sort((a, b) => a.getBoundingClientRect().x - b.getBoundingClientRect().x)"
        ".map(cell => cell.innerText.trim())"
    )
    assert headers == ["mean_error", "ci_low", "ci_high", "n_seeds", "train_seconds"]
    assert "Table II: test error" in browser.text(), "the experiment's description"
    browser.press("[data-testid=saved-views-trigger]")
    browser.wait(f"document.body.innerText.includes({json.dumps(VIEWS[-1].name)})")
    assert all(view.name in browser.text() for view in VIEWS)


def test_parallel_coordinates_compare_cost_and_error_of_the_methods(
    browser: Any, experiment: str, frame: pd.DataFrame, keep: Callable[[str], None]
) -> None:
    browser.size(1600, 1000)
    browser.open(f"{experiment}/runs?viewStateShareKey=table&compareRunsMode=CHART")
    browser.wait("document.querySelector('.parcoords svg .dimension')")
    browser.wait("document.querySelectorAll('.js-plotly-plot .main-svg').length > 0")
    axes = browser.value(
        "[...document.querySelectorAll('.parcoords .dimension text.label')].map(t => t.textContent)"
    )
    assert axes == ["method", "train_seconds", "mean_error"]
    [ticks] = browser.value(
        "[[...document.querySelectorAll('.parcoords .dimension')[0].querySelectorAll('.tick text')]"
        ".map(t => t.textContent)]"
    )
    assert set(frame.index) <= set(ticks)
    browser.wait(PAINTED)
    keep("mlflow-parallel")


# Of the canvas that the lines are on: whether any pixel is.
PAINTED = """[...document.querySelectorAll('.parcoords canvas')].some(c => c.width > 0 &&
    c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(value => value > 0))"""


def test_histograms_of_lam_lie_over_each_other_beside_the_curves(
    browser: Any, experiment: str, keep: Callable[[str], None]
) -> None:
    browser.size(1600, 1000)
    browser.open(f"{experiment}/runs?viewStateShareKey=trainings&compareRunsMode=CHART")
    browser.wait("document.querySelectorAll('.js-plotly-plot').length >= 4")
    middles = [int(100 * (at + 0.5) / 20) for at in range(20)]  # of the bins, in percent
    browser.wait(
        "[...document.querySelectorAll('.js-plotly-plot')].some(plot => (plot.data ?? []).filter("
        f"line => JSON.stringify(Array.from(line.x ?? [])) == '{json.dumps(middles)}'"
        ".replaceAll(' ', '')).length > 1)"
    )
    assert all(name in browser.text() for name in ("val_error", "train_loss", "lam_density"))
    keep("mlflow-lambda")


def test_chosen_runs_are_compared_side_by_side(
    browser: Any, address: str, runs: Callable[[str], list[Run]]
) -> None:
    chosen = [run for run in runs("summary") if run.data.tags["method"] in ("none", "metamixup")]
    ids = quote(json.dumps([run.info.run_id for run in chosen]))
    place = quote(json.dumps([chosen[0].info.experiment_id]))
    browser.open(f"{address}/compare-runs?runs={ids}&experiments={place}")
    browser.wait("document.querySelector('.js-plotly-plot .parcoords')")
    text = browser.text()
    assert "Comparing 2 Runs from 1 Experiment" in text
    for run in chosen:
        assert str(run.info.run_name) in text
    ticks = browser.value(
        "[...document.querySelectorAll('.parcoords .axis .tick text')].map(t => t.textContent)"
    )
    assert {"none", "metamixup"} <= set(ticks)


def test_the_figure_and_the_table_are_artifacts_of_the_study(
    browser: Any,
    experiment: str,
    output: Path,
    runs: Callable[[str], list[Run]],
    keep: Callable[[str], None],
) -> None:
    [study] = runs("study")
    browser.size(1600, 1000)
    browser.open(f"{experiment}/runs/{study.info.run_id}/artifacts/table2.png")
    loaded = "[...document.querySelectorAll('img')].find(i => i.naturalWidth > 300 && i.complete)"
    browser.wait(loaded)
    drawn = browser.value(f"(i => [i.naturalWidth, i.naturalHeight])({loaded})")
    with Image.open(output / "table2.png") as figure:
        assert tuple(drawn) == figure.size
    assert all(name in browser.text() for name in ("table2.csv", "table2.md", "table2.png"))
    keep("mlflow-artifact")
    browser.open(f"{experiment}/runs/{study.info.run_id}")
    browser.wait("document.querySelector('td, .markdown table')")
    rows = (output / "table2.md").read_text().splitlines()
    first = next(row for row in rows if row.startswith("| ") and "none" not in row.split("|")[0])
    for word in (part.strip() for part in first.strip("|").split("|")):
        assert word in browser.text(), "the report is the run's description"
