"""Files from strangers run no code, passwords are not repeated, and nothing is open to others."""

from __future__ import annotations

import ast
import logging
import re
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpo.storage.shown import shown_uri
from hpo.tracking.missing import Missing
from hpo.tracking.outbox import Artifact, Outbox
from hpo.tracking.run import TrackedRun
from hpo.tracking.stored import StoredRun
from hpo.tracking.tracker import StudyTracker, TrackingError, check_tracking_uri
from hpo.tracking.uris import first_line

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [path for folder in ("core", "hpo", "studies") for path in (ROOT / folder).rglob("*.py")]
# Calls that run what is in a file, or may: by the last name, and by the whole where that is common.
RUNS_CODE = {
    "eval", "exec", "execfile", "compile_command", "read_pickle", "unsafe_load", "full_load",
    "Unpickler", "load_module",
}  # fmt: skip
RUNS_CODE_WHOLE = {
    "pickle.load", "pickle.loads", "cloudpickle.load", "cloudpickle.loads", "dill.load",
    "dill.loads", "joblib.load", "marshal.load", "marshal.loads", "shelve.open", "yaml.load",
    "Tuner.restore", "tune.Tuner.restore", "torch.jit.load", "torch.package.PackageImporter",
    "os.system", "os.popen",
}  # fmt: skip


def called(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def unsafe(path: Path) -> Iterator[str]:
    """Yields the calls of the file that would run code of a file that they read."""
    for name, call in called(path):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if (
            name in RUNS_CODE_WHOLE
            or name.rpartition(".")[2] in RUNS_CODE - ({"eval"} if "." in name else set())
            or (name == "torch.load" and keywords.get("weights_only") != "True")
            or keywords.get("allow_pickle", "False") != "False"
            or keywords.get("shell", "False") != "False"
        ):
            yield f"{path.relative_to(ROOT)}:{call.lineno} {name}"


def test_nothing_of_ours_unpickles_or_runs_what_it_reads() -> None:
    assert len(SOURCES) > 100
    assert [results for path in SOURCES for results in unsafe(path)] == []
    # Only the reader of CIFAR's files, which are pickles, may: with a class that allows arrays.
    users = [
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if re.search(r"^\s*(import|from) (pickle|cloudpickle|dill|joblib|marshal|shelve)\b",
                     path.read_text(), re.MULTILINE)
    ]  # fmt: skip
    assert users == ["core/data/formats.py"]


@pytest.mark.parametrize(
    "text",
    [
        "pickle.load(file)", "torch.load(path)", "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)", "subprocess.run(command, shell=True)", "eval(text)",
        "tune.Tuner.restore(path)", "pd.read_pickle(path)",
    ],
)  # fmt: skip
def test_the_check_finds_what_it_looks_for(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: f"x = {text}\nmodel.eval()\n")
    assert len(list(unsafe(ROOT / "core" / "x.py"))) == 1


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:hunter2@host:5000", "http://me:***@host:5000"),
        ("https://me:hun%40ter2@host/path", "https://me:***@host/path"),
        ("postgresql+psycopg2://me:hunter2@host/db", "postgresql+psycopg2://me:***@host/db"),
        # Not quoted as they should be, and hidden all the same.
        ("http://me:hun@ter2@host", "http://me:***@host"),
        ("http://me:hun/ter2@host", "http://me:***@host"),
        ("http://me:hun:ter2@host", "http://me:***@host"),
        (
            "postgresql://host/db?user=me&password=hunter2&connect_timeout=4",
            "postgresql://host/db?user=me&password=***&connect_timeout=4",
        ),
        (
            "mssql+pyodbc:///?odbc_connect=DRIVER%3D%7Bx%7D%3BPWD%3Dhunter2&timeout=4",
            "mssql+pyodbc:///?odbc_connect=***&timeout=4",
        ),
        (
            "mssql+pyodbc:///?timeout=4&odbc_connect=DRIVER={ODBC Driver 18};PWD={hun ter2};UID=me",
            "mssql+pyodbc:///?timeout=4&odbc_connect=*** Driver 18};PWD=***;UID=me",
        ),
        ("http://host/?api_token=hunter2&a=b", "http://host/?api_token=***&a=b"),
        ("http://host:5000", "http://host:5000"),
        ("http://me@host", "http://me@host"),
        ("sqlite:////a/b/mlflow.db", "sqlite:////a/b/mlflow.db"),
    ],
)
def test_a_password_is_hidden_wherever_it_stands(uri: str, shown: str) -> None:
    assert shown_uri(uri) == shown
    text = f"API request to {uri} failed: see '{uri}'"
    assert shown_uri(text) == f"API request to {shown} failed: see '{shown}'"
    assert first_line(RuntimeError(text)) == shown_uri(text)


def test_no_message_repeats_the_password(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))  # and never listens
        uri = f"http://me:hunter2@127.0.0.1:{holder.getsockname()[1]}"
        messages = []
        for act in (
            lambda: check_tracking_uri(uri),
            lambda: StudyTracker(uri, output=tmp_path, experiment="x", study_id="1", params={}),
        ):
            with pytest.raises(TrackingError) as caught:
                act()
            messages.append(str(caught.value))

        def fail(*_: object) -> None:
            raise OSError(f"no route to {uri}")

        with caplog.at_level(logging.DEBUG):
            outbox = Outbox(None, "0", uri, Missing(tmp_path / "missing.json", "1", "x"))
            stored = TrackedRun("x", {}, {}, stored=StoredRun("1", "RUNNING"))
            outbox.artifacts.append(Artifact(stored, "table", fail))
            outbox.write_artifacts()
            outbox.attempt(fail)
    assert "me:***@" in messages[0]
    assert "me:***@" in caplog.text
    captured = capfd.readouterr()
    for text in (*messages, caplog.text, captured.out, captured.err, str(outbox.trouble)):
        assert "hunter2" not in text


def test_the_ui_listens_on_this_machine_only() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own modules about each other
        from mlflow.cli import server

    [recipe] = re.findall(r"^\t.*\bmlflow ui .*$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "--host 127.0.0.1" in recipe
    # Our messages name it without a host, and as `mlflow ui`, which is the same.
    [host] = [parameter for parameter in server.params if parameter.name == "host"]
    assert host.default == "127.0.0.1"
