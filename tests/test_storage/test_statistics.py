"""Statistics of a dataset against all its planes at once, and what replacement, growth and damage do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage import layout
from storage.documents import parse_document
from storage.errors import IntegrityError, StaleSnapshotError, UsageError
from storage.fit_statistics import find_statistics, merge_statistics, write_statistics
from storage.lease import Lease
from storage.plan import read_plan
from storage.planes import PlanesStore, publish_fit
from storage.reader import PlanesDataset, open_planes
from storage.replacement import finish_round, open_round
from storage.sketch import QUANTILE_ERROR, ChannelSketch
from storage.statistics import NORMALIZATIONS, ChannelStats, normalize_planes
from storage.store import Store
from storage.verify import verify

from .builders import (
    F_MIC,
    N_OBJECTS,
    K,
    M,
    fill_planes,
    fit_header,
    full_dataset,
    make_plan,
    object_fit,
    write_shared,
)
from .test_replacement import mend_in_a_round


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return full_dataset(tmp_path)


def all_planes(dataset: PlanesDataset) -> np.ndarray[Any, Any]:
    return dataset[:].planes().astype(np.float64)


def assert_right(stats: ChannelStats, planes: np.ndarray[Any, Any]) -> None:
    """Compare with planes [B, 3, F, K, K]."""
    axes = (0, 3, 4)
    assert (stats.n_objects, stats.values_per_channel) == (len(planes), len(planes) * planes[0, 0, 0].size)
    np.testing.assert_allclose(stats.mean, planes.mean(axis=axes), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(stats.std, planes.std(axis=axes), rtol=1e-6)
    np.testing.assert_allclose(stats.min, planes.min(axis=axes), rtol=1e-6)
    np.testing.assert_allclose(stats.max, planes.max(axis=axes), rtol=1e-6)
    np.testing.assert_allclose(stats.absmax, np.abs(planes).max(axis=axes), rtol=1e-6)
    for q, found in ((0.001, stats.p0_1), (0.999, stats.p99_9), (0.3, stats.quantile(0.3))):
        exact = np.quantile(planes, q, axis=axes, method="lower")
        assert np.all(np.abs(found - exact) <= 2.0**-16 + (QUANTILE_ERROR + 1e-6) * np.abs(exact)), q


def test_statistics_are_those_of_all_fused_planes(store: Store) -> None:
    dataset = open_planes(store.url)
    assert_right(dataset.stats, all_planes(dataset))
    assert dataset.stats.f_mic == F_MIC and dataset.stats.quantile_error == QUANTILE_ERROR
    assert dataset.provenance["stats_version"] == dataset.stats.version


def test_the_first_channels_are_those_of_the_micro_planes(store: Store) -> None:
    dataset = open_planes(store.url)
    micro = np.stack([entry.micro() for entry in dataset])
    assert np.array_equal(dataset.stats.max[:, :F_MIC], micro.max(axis=(0, 3, 4)))


@pytest.mark.parametrize("variant", [{"f_mic": 0}, {"n_base": 0}, {"dtype": "float32"}])
def test_variants(store: Store, variant: dict[str, Any]) -> None:
    planes = PlanesStore.create_or_open(store, read_plan(store), fit_header(name="other", **variant))
    for shard in range(planes.n_shards):
        builder = planes.builder(shard, f"v{shard}")
        for row in planes.shard_rows(shard):
            if row == 0:
                builder.leave_absent(row)
                continue
            fit = object_fit(row, planes.header.f_mic, regime=1 + row % 2)
            builder.add(row, type(fit)(fit.micro, fit.coefficients[: planes.header.n_base], fit.regime))
        builder.commit()
    dataset = open_planes(store.url, "other")
    assert len(dataset) == N_OBJECTS - 1 and dataset.stats.f_mic == planes.header.f_mic
    fused = all_planes(dataset) if planes.header.n_base else np.stack([e.micro() for e in dataset])
    assert_right(dataset.stats, fused.astype(np.float64))


def test_stored_statistics_name_the_state_and_read_without_our_code(store: Store, tmp_path: Path) -> None:
    planes = PlanesStore.open(store)
    stats = write_statistics(planes)
    assert write_statistics(planes).version == stats.version == open_planes(store.url).stats.version
    (path,) = (tmp_path / "fits/main/stats").iterdir()
    document = json.loads(path.read_bytes())
    assert path.stem == document["version"] == stats.version and document["n_objects"] == 4
    assert document["shards"] == {"0": "p0", "1": "p1"} and document["generation"] == 0
    assert np.array_equal(np.array(document["figures"]["max"]), stats.max)
    parse_document(path.read_bytes(), path.name)


def test_stored_statistics_spare_the_shards(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write_statistics(PlanesStore.open(store))
    dataset = open_planes(store.url)
    monkeypatch.setattr(Store, "read_range", None)
    monkeypatch.setattr(Store, "read_tail", None)
    assert dataset.stats.n_objects == 4


def test_a_replaced_shard_brings_its_own_statistics(store: Store) -> None:
    before = write_statistics(PlanesStore.open(store))
    held = open_planes(store.url)
    mend_in_a_round(store, "planes")
    after = open_planes(store.url)
    assert len(after) == 5 and after.stats.version != before.version
    assert_right(after.stats, all_planes(after))
    assert find_statistics(PlanesStore.open(store), after.status) is None
    stored = write_statistics(PlanesStore.open(store))
    assert stored.version == after.stats.version
    assert open_planes(store.url, stats_version=before.version).stats.n_objects == 4
    assert held.stats.version == before.version, "the snapshot is older than the replacement"
    mend_in_a_round(store, "planes", "third", rows=(4,))
    again = open_planes(store.url)
    assert len(again) == 5 and again.stats.version not in (before.version, stored.version)
    assert_right(again.stats, all_planes(again))


def test_an_older_snapshot_is_stale_where_nothing_is_stored(store: Store) -> None:
    held = open_planes(store.url)
    mend_in_a_round(store, "planes")
    with pytest.raises(StaleSnapshotError):
        _ = held.stats
    held.refresh()
    assert_right(held.stats, all_planes(held))


def test_nothing_is_stored_during_a_round(store: Store) -> None:
    planes = PlanesStore.open(store)
    with Lease(store, "test") as lease:
        open_round(planes, lease.token, [1])
        with pytest.raises(StaleSnapshotError):
            write_statistics(PlanesStore.open(store))
        assert open_planes(store.url).stats.n_objects == 4
        finish_round(planes, lease.token)


def test_a_growing_fit_has_statistics_of_what_is_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    statistics = PlanesStore.statistics
    monkeypatch.setattr(
        PlanesStore, "statistics", lambda self, shard: (read.append(shard), statistics(self, shard))[1]
    )
    planes = PlanesStore.create_or_open(store, read_plan(store), fit_header(name="growing"))
    dataset = open_planes(store.url, "growing")
    with pytest.raises(UsageError, match="no objects"):
        _ = dataset.stats
    for shard, rows in ((0, range(3)), (1, range(3, 5))):
        builder = planes.builder(shard, f"g{shard}")
        for row in rows:
            builder.add(row, object_fit(row))
        builder.commit()
        assert dataset.refresh() is None and dataset.stats.n_objects == rows.stop
        write_statistics(planes)
        assert_right(dataset.stats, all_planes(dataset))
    assert len(store.list("fits/growing/stats")) == 2
    assert read == [0, 0, 1, 1], "in memory and to store it; the second time only what is new"


def test_shards_without_statistics_are_read_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A fit whose shared components came later stands for one that an earlier fpipe wrote."""
    store = Store(tmp_path)
    plan = make_plan(store)
    planes = PlanesStore.create_or_open(store, plan, fit_header())
    fill_planes(planes)
    assert "without channel statistics" in caplog.text and planes.statistics(0) is None
    publish_fit(store, "main")
    with pytest.raises(UsageError, match="train-shared"):
        _ = open_planes(tmp_path).stats
    write_shared(store)
    dataset = open_planes(tmp_path)
    assert_right(dataset.stats, all_planes(dataset))
    assert write_statistics(planes).version == dataset.stats.version


def test_unknown_version_is_refused(store: Store) -> None:
    version = write_statistics(PlanesStore.open(store)).version
    with pytest.raises(UsageError, match=version):
        open_planes(store.url, stats_version="g7-n1-0")


def test_a_flipped_byte_in_a_shards_statistics_is_found(store: Store, tmp_path: Path) -> None:
    planes = PlanesStore.open(store)
    block = planes.sidecar(1).statistics
    assert block is not None
    path = tmp_path / planes.spec.shard_key(1)
    data = bytearray(path.read_bytes())
    data[block.offset + block.n_bytes // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="statistics"):
        merge_statistics(PlanesStore.open(store), planes.status())
    (problem,) = verify(store, full=True)
    assert (problem.mend, problem.objects, problem.shard) == ("redo", (), 1)


def test_a_renamed_document_is_found(store: Store, tmp_path: Path) -> None:
    version = write_statistics(PlanesStore.open(store)).version
    folder = tmp_path / "fits/main/stats"
    (folder / f"{version}.json").rename(folder / f"{version[:-1]}x.json")
    (problem,) = verify(store, full=False)
    assert problem.key == layout.fit_statistics("main", version[:-1] + "x") and problem.mend == "rebuild"


@pytest.mark.parametrize("how", NORMALIZATIONS)
def test_normalised_planes_are_what_the_name_says_and_come_back(store: Store, how: Any) -> None:
    dataset = open_planes(store.url)
    stats, planes = dataset.stats, dataset[:].planes()
    found = stats.normalize(planes, how)
    assert found.dtype == np.float32 and found.shape == planes.shape
    axes = (0, 3, 4)
    if how == "minmax":
        np.testing.assert_allclose(found.min(axis=axes), -1, rtol=1e-6)
        np.testing.assert_allclose(found.max(axis=axes), 1, rtol=1e-6)
    elif how == "std":
        np.testing.assert_allclose(found.mean(axis=axes, dtype=np.float64), 0, atol=1e-6)
        np.testing.assert_allclose(found.std(axis=axes, dtype=np.float64), 1, rtol=1e-6)
    else:
        np.testing.assert_allclose(np.abs(found).max(axis=axes), 1, rtol=1e-6)
        assert np.array_equal(np.sign(found), np.sign(planes))
    np.testing.assert_allclose(stats.denormalize(found, how), planes, rtol=1e-5, atol=1e-6)
    flat = stats.normalize(planes.reshape(4, -1, K, K), how)
    assert np.array_equal(flat.reshape(planes.shape), found), "flat planes are plane-major"
    assert np.array_equal(dataset[:].planes(normalize=how), found)
    assert np.array_equal(dataset[2].planes("flat", np.float16, how), flat[2].astype(np.float16))
    micro = stats.normalize(planes[:, :, :F_MIC], how)
    assert np.array_equal(micro, found[:, :, :F_MIC])


def test_constant_channels_become_zero_and_come_back() -> None:
    planes = np.full((3, 2, K, K), 0.75, np.float32)
    stats = ChannelStats("v", 2, ChannelSketch.of_object(planes.reshape(6, -1)))
    assert np.array_equal(stats.normalize(planes, "minmax"), np.zeros_like(planes))
    assert np.array_equal(stats.normalize(planes, "std"), np.zeros_like(planes))
    assert np.array_equal(stats.denormalize(np.zeros_like(planes), "std"), planes)


def test_wrong_names_and_shapes_are_refused(store: Store) -> None:
    stats = open_planes(store.url).stats
    with pytest.raises(UsageError, match="minmax"):
        normalize_planes(np.zeros((3, stats.n_channels, K, K)), "max", stats)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="cannot be normalised"):
        normalize_planes(np.zeros((3, M, K, K)), "std", stats)
