"""The files from which a tracking server is started: what they open, and what they keep secret."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from hpo.tracking.uris import default_tracking_uri
from tests.support.scripts import ROOT


def settings(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


def test_secrets_are_made_once_and_for_the_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "secrets.env"
    command = ["sh", str(ROOT / "mlflow/secrets.sh"), str(file)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    made = settings(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = {name: v for name, v in made.items() if "PASSWORD" in name or "KEY" in name}
    assert len(secret) == len(set(secret.values())) == 4
    assert all(len(value) == 48 for value in secret.values())
    assert not any(value in printed for value in secret.values())
    subprocess.run(command, capture_output=True, check=True)
    assert settings(file) == made
    other = tmp_path / "other.env"
    subprocess.run([*command[:-1], str(other)], capture_output=True, check=True)
    assert not set(secret.values()) & set(settings(other).values())
    example = settings_of_the_example()
    assert set(made) <= set(example)
    assert not any(example[name] for name in secret), "the example has none"


def settings_of_the_example() -> dict[str, str]:
    lines = (ROOT / "mlflow/env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_the_compose_file_names_only_what_there_is() -> None:
    text = (ROOT / "mlflow/compose.yaml").read_text()
    example = (ROOT / "mlflow/env.example").read_text()
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", text))
    assert used == set(re.findall(r"^#? ?([A-Z0-9_]+)=", example, re.MULTILINE))
    compose = yaml.safe_load(text)
    services = compose["services"]
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
        assert {entry["source"] for entry in service.get("configs", ())} <= set(compose["configs"])
        assert {entry.split(":")[0] for entry in service.get("volumes", ())} <= set(
            compose["volumes"]
        )
        for needed in service.get("depends_on", {}).values():
            assert needed["condition"] in ("service_healthy", "service_completed_successfully")
    build = services["mlflow"]["build"]
    dockerfile = (ROOT / "mlflow" / build["context"] / build["dockerfile"]).read_text()
    images = [service["image"] for service in services.values() if "image" in service]
    images += re.findall(r"^FROM (\S+)$", dockerfile, re.MULTILINE)
    assert len(images) == 4
    for image in images:  # a version to the last digit, not what is newest on the day
        assert re.search(r":(RELEASE\.\d{4}-\d\d-\d\dT|\d+\.\d+)", image), image


def test_the_compose_file_opens_one_port_on_loopback_and_holds_no_secret() -> None:
    compose = yaml.safe_load((ROOT / "mlflow/compose.yaml").read_text())
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports == ["${MLFLOW_BIND:-127.0.0.1}:${MLFLOW_PORT:-5000}:5000"]
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if any(word in name for word in ("PASSWORD", "SECRET", "KEY")):
                assert value.startswith("${"), name
    server = compose["services"]["mlflow"]
    assert "--app-name basic-auth" in server["command"]
    assert server["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].startswith("${MLFLOW_NAMES:-local")


def test_a_study_finds_the_server_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert default_tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert default_tracking_uri(tmp_path) == "http://127.0.0.1:5000"


def test_what_is_made_at_the_first_start_is_not_committed() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/mlflow-server/", "/mlflow/.env"} <= set(ignored)
