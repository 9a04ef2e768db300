"""What several test packages share: the command line as a subprocess, and one small finished dataset."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import hypothesis
import pytest

from tests.s3_server import S3Server, Shim

# Machines that run tests are shared: how long an example takes says nothing.
hypothesis.settings.register_profile(
    "shared", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("shared")

TINY = Path(__file__).with_name("tiny.yaml")


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        return json.loads(self.out)


def command(*arguments: str | Path) -> list[str]:
    """The fpipe command of this environment."""
    return [sys.executable, "-m", "cli.main", *map(str, arguments)]


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without settings of fpipe, and without Ray's colours."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FPIPE_")} | extra


def fpipe(*arguments: str | Path, **environment: str) -> Finished:
    """Runs the command line for real and waits for its end."""
    done = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=500,
        env=clean_environment(**environment),
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished dataset: two objects of each of four classes, rendered by Blender, fitted under Ray."""
    root = tmp_path_factory.mktemp("tiny") / "dataset"
    done = fpipe("demo", root, "--preset", TINY, "--json")
    assert done.code == 0, done.err
    return root


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server on this machine, one for all tests."""
    pytest.importorskip("moto.server")
    with S3Server() as server:
        yield server


@pytest.fixture
def s3_environment(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Leads this process to the server, whatever the machine's own AWS settings are; yields the variables."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    variables = s3_server.environment() | {
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(fsspec.config, "conf", {})
    _forget_connections()
    yield variables
    _forget_connections()


@pytest.fixture
def s3_root(s3_server: S3Server, s3_environment: dict[str, str]) -> str:
    """URL of an empty place in a fresh bucket."""
    bucket = f"b-{uuid.uuid4().hex}"
    s3_server.make_bucket(bucket)
    return f"s3://{bucket}/root"


@pytest.fixture
def s3_shim(
    s3_server: S3Server, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shim]:
    """Stands in front of the server and passes everything on until a test gives it a rule."""
    with Shim(s3_server.url) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.url)
        yield found


def _forget_connections() -> None:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A temporary folder with a short path: Ray's sockets need that."""
    with tempfile.TemporaryDirectory(prefix="k-", dir="/tmp") as folder:
        yield Path(folder)
