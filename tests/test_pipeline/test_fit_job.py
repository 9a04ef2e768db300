from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.evaluate import recompute_figures
from pipeline.fit import job
from pipeline.fit.config import FitConfig
from pipeline.fit.job import fit_shard
from pipeline.fit.repro import repro_fit
from pipeline.fit.settings import FittedCode
from pipeline.fit_views import FitRenderer
from storage.documents import content_hash
from storage.errors import ObjectUnavailableError, UsageError
from storage.plan import Plan, PlanHeader, write_plan
from storage.planes import FitHeader, PlanesStore
from storage.records import Failure, ObjectViews, PlanRow
from storage.store import Store
from storage.views import ViewsStore
from tests.test_pipeline.toy import SIZE_PX, ToyObject, toy_object, toy_trainer, trained_shared

N = 6
BROKEN = 4  # its rendering failed
FIT = FitConfig(
    batch=2, latent_steps=3, latent_pixels=32, rgb_steps=2, samples=8, free_points=16, dtype="float16"
)


def _write_views(store: Store, objects: list[ToyObject], shards: int) -> Plan:
    rows = [PlanRow(i, toy.object_id, "toy", "test", "", f"f{i}") for i, toy in enumerate(objects)]
    header = PlanHeader(
        n_objects=N, n_views=len(objects[0].images), height=SIZE_PX, width=SIZE_PX, objects_per_views_shard=3
    )
    plan = write_plan(store, header, rows)
    views = ViewsStore.create_or_open(store, plan)
    for shard in range(shards):
        builder = views.builder(shard, f"views-{shard}")
        for row in views.shard_rows(shard):
            toy = objects[row]
            if row == BROKEN:
                builder.fail(row, Failure("no_faces", "the mesh has no faces"))
                continue
            mesh_to_world = np.eye(4, dtype=np.float32)
            found = ObjectViews(toy.images, toy.cam2world, toy.intrinsics, toy.heldout, mesh_to_world)
            builder.add(row, found)
        builder.commit()
    return plan


def _dataset(
    root: Path, views_shards: int = 2, per_shard: int = 3, noise: bool = False, spoil: Any = None
) -> Store:
    """Objects toy-0 .. toy-5; toy-0 .. toy-2 are jointly trained; a fit "base" ready to be computed."""
    objects = [toy_object(seed) for seed in range(N)]
    if noise:
        for toy in objects:
            shape = toy.images[toy.heldout].shape
            toy.images[toy.heldout] = np.random.default_rng(0).integers(0, 256, shape)
    if spoil is not None:
        spoil(objects)
    store = Store(root)
    plan = _write_views(store, objects, views_shards)
    trainer = toy_trainer()
    version = trained_shared(trainer).save(store, trainer.codes())
    values = FIT.model_dump(mode="json")
    header = FitHeader(
        name="base",
        shared_version=version,
        fit_config=values,
        fit_config_hash=content_hash(values),
        n_objects=N,
        f_mic=4,
        resolution=16,
        n_base=2,
        objects_per_shard=per_shard,
    )
    PlanesStore.create_or_open(store, plan, header)
    return store


def _fit_all(store: Store) -> PlanesStore:
    planes = PlanesStore.open(store, "base")
    for shard in range(planes.n_shards):
        fit_shard(store.url, "base", shard, f"attempt-{shard}")
    return PlanesStore.open(store, "base")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = _dataset(tmp_path_factory.mktemp("fit"))
    _fit_all(store)
    return store


def test_every_object_is_stored_with_regime_and_figures(finished: Store) -> None:
    planes = PlanesStore.open(finished, "base")
    assert planes.regime().tolist() == [1, 1, 1, 2, 0, 2]
    fit = planes.read(3)
    assert fit.micro is not None
    assert fit.micro.dtype == np.float16
    assert 5 < fit.metrics["psnr_db"] < 60
    assert np.isnan(fit.metrics["lpips"])
    info = planes.shard_info(1)["toy-3"]
    assert [step for step, _ in info["curve"]] == [3, 5]
    assert info["steps"] == [3, 2]
    assert info["seconds"] > 0


def test_figures_are_those_of_the_stored_planes(finished: Store) -> None:
    planes = PlanesStore.open(finished, "base")
    stored, again = planes.metrics(), recompute_figures(finished, planes)
    for name in ("psnr_db", "ssim", "ceiling_psnr_db", "nearest_view_psnr_db"):
        np.testing.assert_allclose(stored[name], again[name], atol=1e-4, err_msg=name)


def test_an_object_without_views_is_a_recorded_failure(finished: Store) -> None:
    planes = PlanesStore.open(finished, "base")
    ((row, object_id, failure),) = planes.failures()
    assert (row, object_id, failure.kind) == (BROKEN, "toy-4", "no_views")
    assert "no faces" in failure.reason
    with pytest.raises(ObjectUnavailableError):
        planes.read(BROKEN)


def test_a_done_shard_is_skipped(finished: Store) -> None:
    summary = fit_shard(finished.url, "base", 1, "another")
    assert summary["skipped"]
    assert summary["attempt"].startswith("attempt-1-")
    assert (summary["n_ok"], summary["n_failed"]) == (2, 1)


def test_a_shard_whose_views_are_missing_is_refused_by_name(tmp_path: Path) -> None:
    store = _dataset(tmp_path, views_shards=1)
    assert fit_shard(store.url, "base", 0, "a")["n_ok"] == 3
    with pytest.raises(UsageError, match="views of shards 1 are not rendered"):
        fit_shard(store.url, "base", 1, "a")


def test_a_fit_does_not_depend_on_shards_or_heldout_views(finished: Store, tmp_path: Path) -> None:
    other = _fit_all(_dataset(tmp_path, per_shard=1, noise=True))
    planes = PlanesStore.open(finished, "base")
    assert (other.n_shards, planes.n_shards) == (6, 2)
    for row in (0, 3, 5):
        a, b = planes.read(row), other.read(row)
        assert a.micro is not None
        assert b.micro is not None
        np.testing.assert_allclose(a.micro.astype(np.float32), b.micro.astype(np.float32), atol=2e-3)
        np.testing.assert_allclose(a.coefficients, b.coefficients, atol=1e-3)


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "finite"), (1e6, "finite")])
def test_an_object_that_cannot_be_stored_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, reason: str
) -> None:
    store = _dataset(tmp_path)
    real = job.fit_stream

    def spoil(*args: Any) -> Iterator[FittedCode]:
        for result in real(*args):
            if result.object_id == "toy-1":
                assert result.micro is not None
                result.micro[0, 0, 0, 0] = value
            yield result

    monkeypatch.setattr(job, "fit_stream", spoil)
    summary = fit_shard(store.url, "base", 0, "a")
    assert (summary["n_ok"], summary["n_failed"]) == (2, 1)
    ((_, object_id, failure),) = PlanesStore.open(store, "base").failures()
    assert (object_id, failure.kind) == ("toy-1", "fit_diverged")
    assert reason in failure.reason


def test_an_object_whose_rendering_is_not_finite_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _dataset(tmp_path)
    real, calls = FitRenderer.render, []

    def spoil(*args: Any) -> Any:
        calls.append(args)
        return real(*args) * (np.nan if len(calls) == 2 else 1.0)

    monkeypatch.setattr(FitRenderer, "render", spoil)
    summary = fit_shard(store.url, "base", 0, "a")
    assert (summary["n_ok"], summary["n_failed"]) == (2, 1)
    ((_, _, failure),) = PlanesStore.open(store, "base").failures()
    assert failure.kind == "fit_diverged"
    assert "rendering of a held-out view" in failure.reason


@pytest.mark.parametrize(
    ("figures", "reason"),
    [(lambda *_: {"beauty": 1.0}, "beauty"), (lambda *_: np.ones(2) + np.ones(3), "broadcast")],
)
def test_a_bug_is_no_failure_of_an_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Any, reason: str
) -> None:
    store = _dataset(tmp_path)
    monkeypatch.setattr(job, "evaluate_object", figures)
    with pytest.raises(ValueError, match=reason):
        fit_shard(store.url, "base", 0, "a")
    with pytest.raises(ValueError, match=reason):
        repro_fit(store.url, "base", "toy-0")
    assert PlanesStore.open(store, "base").done() == frozenset()


def test_an_object_with_nothing_to_learn_from_is_recorded_and_the_others_are_fitted(tmp_path: Path) -> None:
    def spoil(objects: list[ToyObject]) -> None:
        objects[0].images[:] = 0  # no silhouette: no ray meets its hull
        objects[1].heldout[:] = True

    store = _dataset(tmp_path, spoil=spoil)
    summary = fit_shard(store.url, "base", 0, "a")
    assert (summary["n_ok"], summary["n_failed"]) == (1, 2)
    planes = PlanesStore.open(store, "base")
    failures = {object_id: failure for _, object_id, failure in planes.failures()}
    assert failures["toy-0"].kind == "empty_hull"
    assert "toy-0" in failures["toy-0"].reason
    assert failures["toy-1"].kind == "no_training_views"
    assert all("fpipe repro" in failure.repro for failure in failures.values())


def test_a_shard_says_how_many_objects_it_fitted_at_a_time(tmp_path: Path) -> None:
    store = _dataset(tmp_path)
    fit_shard(store.url, "base", 0, "a")
    info = PlanesStore.open(store, "base").sidecar(0).info
    assert (info["batch"], info["device"], info["threads"], info["kernel"]) == (2, "cpu", 1, "torch")
