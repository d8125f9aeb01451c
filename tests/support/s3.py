"""A server on this machine that speaks like S3."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import free_port

POLICY = """{"Version": "2012-10-17",
"Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}"""


@dataclass(frozen=True)
class S3:
    """A server that checks signatures, with one bucket and who may use it."""

    endpoint: str
    bucket: str
    key: str
    secret: str

    @property
    def environment(self) -> dict[str, str]:
        """Returns the variables by which a process finds the server and proves who it is."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def serve_s3(folder: Path) -> Iterator[S3]:
    """Yields a server, in a process of its own, that writes its log to the folder."""
    import boto3

    port, log = free_port(), folder / "log"
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
        place = {"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "us-east-1"}
        place |= {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
        iam = boto3.client("iam", **place)
        iam.create_user(UserName="study")
        iam.put_user_policy(UserName="study", PolicyName="s3", PolicyDocument=POLICY)
        key = iam.create_access_key(UserName="study")["AccessKey"]
        boto3.client("s3", **place).create_bucket(Bucket="cells")
        yield S3(place["endpoint_url"], "cells", key["AccessKeyId"], key["SecretAccessKey"])
    finally:
        server.terminate()
        server.wait(60)
