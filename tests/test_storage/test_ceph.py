"""Commit, replacement, lease and probe on a server that is not moto: Ceph's RGW, or any S3 endpoint.

FPIPE_TEST_S3_ENDPOINT (with the usual AWS variables for the credentials) names one; without it, an RGW is
started if Ceph's programs are installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage import layout
from storage.errors import StoreUnusableError
from storage.remote_files import RemoteFiles
from storage.shards import commit_shard, pack_shard
from storage.store import Store

from .builders import full_dataset
from .test_replacement_s3 import (  # noqa: F401 collected here, with the fixtures of this module
    test_a_shard_is_replaced,
    test_an_interrupted_round_is_finished,
    test_one_of_many_gets_the_lease,
    test_swap_is_refused_by_the_server,
)
from .test_s3_requests import (
    test_ranges_tails_and_sizes_are_those_of_a_local_folder,  # noqa: F401
)
from .test_shards import sidecar

pytestmark = [pytest.mark.ceph, pytest.mark.slow]

SCRIPT = Path(__file__).parents[1] / "ceph_rgw.sh"
PROGRAMS = ("ceph-mon", "ceph-osd", "ceph", "radosgw")


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Variables that lead to the server."""
    given = os.environ.get("FPIPE_TEST_S3_ENDPOINT")
    if given:
        yield {"AWS_ENDPOINT_URL": given}
        return
    if not all(map(shutil.which, PROGRAMS)):
        pytest.skip("neither FPIPE_TEST_S3_ENDPOINT nor Ceph's programs")
    folder = tmp_path_factory.mktemp("ceph")
    with (folder / "env").open("w") as out:  # a pipe would be held open by the servers
        subprocess.run(["bash", SCRIPT, "start", folder], check=True, stdout=out, timeout=500)
    words = (folder / "env").read_text().replace("export ", "").split()
    variables = dict(word.split("=", 1) for word in words)
    variables["AWS_ENDPOINT_URL"] = variables.pop("FPIPE_TEST_S3_ENDPOINT")
    yield variables
    subprocess.run(["bash", SCRIPT, "stop", folder], check=True, timeout=60)


@pytest.fixture
def s3_root(endpoint: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    import s3fs

    for name, value in endpoint.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"fpipe-test-{uuid.uuid4().hex}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(bucket)
    return f"s3://{bucket}/root"


@pytest.fixture
def store(s3_root: str) -> Store:
    return full_dataset(s3_root)


def test_the_probe_says_what_the_server_does(s3_root: str) -> None:
    files = RemoteFiles(s3_root, {})
    found = files.settle()
    assert found.create, "nobody could be told who was first"
    path = files._path("k")
    files.requests.put(path, b"1")
    version = files.version("k")
    with pytest.raises(OSError, match=r"pre-condition|exists|None"):
        files.requests.put(path, b"2", create=True)
    old = version.strip('"') if found.bare else version
    if found.swap:
        files.requests.put(path, b"3", version=old)
        with pytest.raises(OSError, match=r"pre-condition|None"):
            files.requests.put(path, b"4", version=old)
        assert files.read("k") == b"3"
    assert files.list(layout.MAINTENANCE) == ["conditions.json"]


def test_of_many_writers_of_a_shard_one_wins(s3_root: str) -> None:
    stores = [Store(s3_root) for _ in range(8)]
    for shard in range(12):
        key = f"shards/{shard}"
        files = [pack_shard(sidecar(attempt=f"a{n}"), [[], []], 0, 2) for n in range(8)]
        with ThreadPoolExecutor(8) as pool:
            attempts = [
                pool.submit(commit_shard, stores[n], key, files[n], f"a{n}", 0) for n in range(len(files))
            ]
        commits = [attempt.result() for attempt in attempts]
        (winner,) = [n for n, commit in enumerate(commits) if commit.won]
        assert {commit.attempt for commit in commits} == {f"a{winner}"}
        assert Store(s3_root).read(key) == files[winner]


def test_refusals_of_the_server_say_what_to_do(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreUnusableError, match=r"NoSuchBucket.*create the bucket first"):
        Store(f"s3://fpipe-test-{uuid.uuid4().hex}/root").create("k", b"")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    wrong = Store(s3_root, skip_instance_cache=True)
    for ask in (lambda: wrong.read("k"), lambda: wrong.size("k"), lambda: wrong.create("k", b"")):
        with pytest.raises(StoreUnusableError, match=r"SignatureDoesNotMatch.*AWS_SECRET_ACCESS_KEY"):
            ask()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(StoreUnusableError, match=r"InvalidAccessKeyId.*AWS_ACCESS_KEY_ID"):
        Store(s3_root, skip_instance_cache=True).read("k")
