"""How often the store is asked: as often as there are pages of markers, whatever the number of objects.

`make bench-scale` measures time and memory of the same with 100,000 shards and ten million objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from pipeline.status import dataset_status
from storage.planes import PlanesStore
from storage.reader import open_planes
from storage.store import Store
from storage.summary import update_summary
from storage.views import ViewsStore
from tests.benchmarks import bench_scale
from tests.benchmarks.scale_fixture import write_dataset


def status(root: str) -> None:
    assert dataset_status(Store(root))["stages"]["render"]["left"] == []


def resume(root: str) -> None:
    assert bench_scale.resume(root)["done"] == 0


def snapshot(root: str) -> None:
    open_planes(root)


OPERATIONS: tuple[Callable[[str], None], ...] = (snapshot, resume, status)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], str]:
    """(shards, objects per shard) → root, all with a summary."""
    roots = {}
    for n_shards, per_shard in ((400, 2), (400, 100), (2400, 2)):
        root = tmp_path_factory.mktemp("scale") / "root"
        write_dataset(root, n_shards, per_shard=per_shard)
        assert update_summary(ViewsStore.open(Store(root)))
        assert update_summary(PlanesStore.open(Store(root)))
        roots[n_shards, per_shard] = str(root)
    return roots


def calls(operation: Callable[[str], None], root: str) -> Counter[str]:
    with pytest.MonkeyPatch.context() as patch:
        counted = bench_scale.CountedStore(patch.setattr)
        operation(root)
        return counted.calls


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_calls_grow_with_pages_of_markers_alone(
    stores: dict[tuple[int, int], str], operation: Callable[[str], None]
) -> None:
    few, more_objects, more_shards = (calls(operation, root) for root in stores.values())
    assert few == more_objects
    times = {snapshot: 1, resume: 1, status: 2}[operation]  # that all markers are listed, of views or fit
    assert more_shards.pop("list") - few.pop("list") == times * 2, "three pages of 1000 names instead of one"
    more_failed = more_shards.pop("read_tail", 0) - few.pop("read_tail", 0)
    assert more_failed == (2 if operation is status else 0), "sidecars of shards in which something failed"
    assert few == more_shards and few.total() < 25
