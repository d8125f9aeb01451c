"""The launcher files against Ray's own schema, and what each of them owes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "hpo" / "cluster" / "launchers"
LAUNCHED = ("local", "aws", "gcp")
PASSWORDS = {"/mlflow-server", "/mlflow/.env"}  # where mlflow/README.md has secrets.sh write them
SECRET = re.compile(r"(password|token|secret|key)\w*\s*[=:]\s*['\"]?[A-Za-z0-9+/]{12,}", re.I)


def read(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_takes_it(name: str) -> None:
    prepared = prepare_config(read(name))
    validate_config(prepared)
    head = prepared["available_node_types"][prepared["head_node_type"]]
    assert "node_config" in head


def test_the_schema_is_one_that_refuses() -> None:
    with pytest.raises(Exception, match="workers_ips"):
        validate_config(prepare_config({**read("local"), "workers_ips": []}))


@pytest.mark.parametrize("name", LAUNCHED)
def test_it_installs_this_tree_and_takes_server_and_token_from_files_outside(name: str) -> None:
    config = read(name)
    assert config["file_mounts"]["~/metamixup-hpo"] == "."
    assert {".git", ".venv", *PASSWORDS} <= set(config["rsync_exclude"])
    [install] = [c for c in config["setup_commands"] if "pip install" in c]
    assert "-c ~/metamixup-hpo/constraints.txt" in install
    assert '"$HOME/metamixup-hpo[cluster]"' in install
    [shell] = [c for c in config["setup_commands"] if ".bashrc" in c]
    assert ". ~/.metamixup.env" in shell
    assert "RAY_AUTH_MODE=token" in shell
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1], "loopback alone"


def test_the_image_is_built_without_the_passwords() -> None:
    ignored = set((ROOT / ".dockerignore").read_text().splitlines())
    assert {path.removeprefix("/") for path in PASSWORDS} <= ignored


@pytest.mark.parametrize("path", sorted(CLUSTER.iterdir()), ids=lambda path: path.name)
def test_no_secret_is_in_them(path: Path) -> None:
    assert not SECRET.search(path.read_text())
    assert SECRET.search("MLFLOW_TRACKING_PASSWORD=abcdefgh12345678")


def test_hosts_of_your_own_keep_the_clusters_of_other_people() -> None:
    config = prepare_config(read("local"))
    commands = [
        command for key, value in config.items() if key.endswith("_commands") for command in value
    ]
    assert any("ray start --head" in command for command in commands)
    assert not any("ray stop" in command for command in commands)


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_a_cloud_cluster_has_room_for_a_cell_from_the_start(name: str) -> None:
    """A study that finds no room when it begins gives up; the head has none."""
    types = read(name)["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    assert types["gpu"]["min_workers"] >= 1


def test_the_versions_of_ray_and_python_are_those_that_are_pinned() -> None:
    pinned = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    image = f"rayproject/ray:{pinned['ray']}-py311-gpu"
    assert read("aws")["docker"]["image"] == image == read("gcp")["docker"]["image"]
    assert f"FROM {image}\n" in (CLUSTER / "Dockerfile").read_text()


# -------------------------------------------------------------------------------------- KubeRay


def documents() -> dict[str, dict[str, Any]]:
    manifest = yaml.safe_load_all((CLUSTER / "kuberay.yaml").read_text())
    return {document["kind"]: document for document in manifest}


def test_the_manifest_has_the_shape_of_a_ray_job() -> None:
    """Names as in KubeRay's reference of `ray.io/v1`: a misspelt one would be dropped."""
    job = documents()["RayJob"]
    assert job["apiVersion"] == "ray.io/v1"
    assert set(job["spec"]) <= {
        "entrypoint", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
        "rayClusterSpec", "runtimeEnvYAML", "backoffLimit", "activeDeadlineSeconds",
    }  # fmt: skip
    cluster = job["spec"]["rayClusterSpec"]
    assert set(cluster) == {
        "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions",
        "headGroupSpec", "workerGroupSpecs",
    }  # fmt: skip
    assert cluster["authOptions"] == {"mode": "token"}
    group = {"rayStartParams", "template"}
    assert set(cluster["headGroupSpec"]) == {*group, "serviceType"}
    for workers in cluster["workerGroupSpecs"]:
        assert set(workers) == {*group, "groupName", "replicas", "minReplicas", "maxReplicas"}
        assert 1 <= workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    for spec in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in spec["rayStartParams"].values())


def test_the_pods_share_the_output_folder_and_know_the_tracking_server() -> None:
    manifest = documents()
    spec, claim = manifest["RayJob"]["spec"], manifest["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    cluster = spec["rayClusterSpec"]
    assert "--output /shared/" in spec["entrypoint"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert {"name": "shared", "mountPath": "/shared"} in container["volumeMounts"]
        (volume,) = pod["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert head["envFrom"][0]["secretRef"]["name"] == "metamixup-tracking"


@pytest.mark.parametrize("name", [*LAUNCHED, "kuberay"])
def test_the_study_that_a_file_names_understands_the_flags(name: str) -> None:
    from hpo.command_line import parse

    text = (CLUSTER / f"{name}.yaml").read_text()
    commands = re.findall(r"studies[./]table2(?:\.py --)? (--.*)", text)
    assert commands
    for command in commands:
        assert parse("table2", "", command.split()).datasets
