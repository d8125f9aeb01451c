from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# `make test` hands files out in this order: the longest first, so that all processes end together.
LONGEST = ("system", "studies", "hpo/cluster", "core/test_distributed.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        path = item.path.relative_to(HERE).as_posix()
        return next((i for i, name in enumerate(LONGEST) if path.startswith(name)), len(LONGEST))

    items.sort(key=rank)


@dataclass(frozen=True)
class S3:
    """A server that speaks like S3 and checks signatures, with one bucket and who may use it."""

    endpoint: str
    bucket: str
    key: str
    secret: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    if find_spec("moto") is None:
        pytest.skip("needs moto[s3] (pip install '.[dev]')")
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint, log = f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("s3") / "log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    # From the fourth request on it checks who asks.
    environment = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "4"}
    with log.open("w") as out:
        server = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        while True:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        made = {"endpoint_url": endpoint, "region_name": "us-east-1"}
        made |= {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
        iam = boto3.client("iam", **made)
        iam.create_user(UserName="study")
        policy = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", '
        policy += '"Resource": "*"}]}'
        iam.put_user_policy(UserName="study", PolicyName="s3", PolicyDocument=policy)
        keys = iam.create_access_key(UserName="study")["AccessKey"]
        boto3.client("s3", **made).create_bucket(Bucket="cells")
        yield S3(endpoint, "cells", keys["AccessKeyId"], keys["SecretAccessKey"])
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """The server, named and with credentials in the environment."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables and nothing else; creating one takes a second or two."""
    from hpo.tracking.tracker import check_tracking_uri, default_tracking_uri

    output = tmp_path_factory.mktemp("store")
    check_tracking_uri(default_tracking_uri(output))
    return output / "mlflow.db"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Python's own handler of SIGINT, here and in processes that the test starts.

    A job that a shell started in the background ignores SIGINT, and so would all its children.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
