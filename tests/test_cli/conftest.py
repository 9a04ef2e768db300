"""A real S3 server on this machine, for tests of sources through the command line."""

from __future__ import annotations

import fsspec
import pytest
from fsspec.asyn import AsyncFileSystem

from storage import retries
from storage.retries import RetryPolicy

BUCKET = "s3://meshes"


@pytest.fixture
def s3(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> AsyncFileSystem:
    """The server's file system, with an empty bucket; its address is in this process's environment."""
    monkeypatch.setattr(retries, "POLICY", RetryPolicy(attempts=3, base_s=0.05))
    files = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    if files.exists(BUCKET):
        files.rm(BUCKET, recursive=True)
    files.mkdir(BUCKET)
    return files
