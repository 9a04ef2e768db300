"""A real S3 server on this machine, for tests of the command line."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import fsspec
import pytest
from fsspec.asyn import AsyncFileSystem

from storage import remote_files

BUCKET = "s3://meshes"


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    """Starts a server; yields the environment that leads to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port)
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
        }
    finally:
        process.kill()
        process.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("the S3 server did not start")


@pytest.fixture
def s3(server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[AsyncFileSystem]:
    """The server's file system, with an empty bucket; its address is in this process's environment."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote_files, "RETRY_DELAYS_S", (0.05, 0.05))
    fsspec.config.conf.clear()
    files = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    if files.exists(BUCKET):
        files.rm(BUCKET, recursive=True)
    files.mkdir(BUCKET)
    type(files).clear_instance_cache()
    yield files
    type(files).clear_instance_cache()
