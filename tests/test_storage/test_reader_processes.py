"""A dataset read over S3 in the parent, then in children of every start method: no hang, the same values."""

from __future__ import annotations

import hashlib
import multiprocessing
import sys
from collections.abc import Iterator
from multiprocessing import forkserver
from typing import Any

import pytest

from storage.reader import PlanesDataset, open_planes

from .builders import full_dataset


def digest(dataset: PlanesDataset) -> str:
    values = dataset[:].planes().tobytes() + dataset[0].micro().tobytes() + dataset[:].cam2world().tobytes()
    return hashlib.sha256(values).hexdigest()


def tell(dataset: PlanesDataset, queue: Any) -> None:
    first = digest(dataset)
    dataset.refresh()
    queue.put((first, digest(dataset)))


@pytest.fixture
def fresh_fork_server() -> Iterator[None]:
    """The fork server keeps the environment, and so the S3 server, of the test that started it."""
    forkserver._forkserver._stop()
    yield
    forkserver._forkserver._stop()


@pytest.mark.usefixtures("fresh_fork_server")
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_children_read_what_the_parent_reads(s3_root: str, method: str) -> None:
    if method == "fork" and sys.version_info >= (3, 12):
        pytest.skip("Python warns of forks when there are threads, and warnings are errors here")
    full_dataset(s3_root)
    dataset = open_planes(s3_root)
    expected = digest(dataset)
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=tell, args=(dataset, queue)) for _ in range(2)]
    for child in children:
        child.start()
    found = [queue.get(timeout=60) for _ in children]
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    assert found == [(expected, expected)] * 2
    assert digest(dataset) == expected, "the parent reads on over its own connections"
