"""The benchmark of the driver on a few shards: everything is counted, and a lost event would be found."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from pipeline.run import record_run
from storage.store import Store
from tests.benchmarks import bench_driver
from tests.benchmarks.counting_stub import count_instead_of_committing


def test_a_few_shards_and_some_that_fail_once() -> None:
    found = bench_driver.bench(argparse.Namespace(shards=60, workers=1, plain=20, failing=20, max_calls=0))
    assert (found["shards"], found["retried"], found["processes"]) == (60, 3, 1)
    assert found["of_plain"] == pytest.approx(found["shards_per_s"] / found["plain_per_s"], rel=0.01)
    assert {"driver", "gcs", "raylet"} == set(found["rss_mib"])
    assert found["cpu_ms"]["driver"] > 0
    assert found["cpu_ms"]["workers"] > 0


@pytest.mark.parametrize("recorded", [[0, 1, 1], [0, 1], [0, 1, 2]])
def test_shards_that_are_recorded_twice_or_never_are_found(recorded: list[int], tmp_path: Path) -> None:
    store = Store(tmp_path)
    with record_run(store, "render", {}) as run:
        for shard in recorded:
            run.event("shard_done", **count_instead_of_committing(store.url, shard, "a"))
    if recorded == [0, 1, 2]:
        assert bench_driver.check_events(store, 3)["run_files"] == 3
    else:
        with pytest.raises(AssertionError, match="of 3 shards are recorded once"):
            bench_driver.check_events(store, 3)
