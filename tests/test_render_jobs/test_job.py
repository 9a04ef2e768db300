"""One shard end to end, with broken meshes among good ones."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import render_jobs.job
from render_jobs.config import RenderConfig
from render_jobs.job import render_shard
from render_jobs.poses import object_cameras
from render_jobs.repro import repro
from render_jobs.sources.base import make_source
from render_jobs.worker import BlenderWorker
from storage.errors import EnvironmentProblem, ObjectUnavailableError, TransientError, UsageError
from storage.plan import PlanHeader, write_plan
from storage.records import PlanRow, Status
from storage.store import Store
from storage.views import ViewsStore
from tests.test_render_jobs.meshes import CUBE, cubes, write_mesh

pytestmark = pytest.mark.bpy

CONFIG = RenderConfig(views=5, width=48, height=48, heldout_fraction=0.2)
BAD = {"b_html": "<html>404</html>", "d_points": "v 0 0 0\nv 1 1 1\n", "f_gone": CUBE}
KINDS = {"car-b_html": "html_page", "car-d_points": "no_faces", "car-f_gone": "missing_file"}


def make_dataset(folder: Path, per_shard: int) -> ViewsStore:
    """Five good and three broken cars."""
    meshes = folder / "meshes"
    for i, name in enumerate(["a", "c", "e", "g", "h"]):
        centres = np.random.default_rng(i).uniform(-1, 1, (4, 3))
        _write(meshes, name, cubes(centres, 0.6, ["paint"] * 4), f"newmtl paint\nKd {0.1 * i} 0.5 0.2\n")
    for name, content in BAD.items():
        _write(meshes, name, content, None)
    source = {"kind": "shapenet", "path": str(meshes)}
    entries = make_source(source).list({}, 0)
    header = PlanHeader(
        n_objects=len(entries),
        n_views=CONFIG.views,
        height=CONFIG.height,
        width=CONFIG.width,
        objects_per_views_shard=per_shard,
        source=source,
        render_config=CONFIG.model_dump(mode="json"),
    )
    rows = [
        PlanRow(i, e.object_id, e.class_name, "shapenet", e.location, e.fingerprint)
        for i, e in enumerate(entries)
    ]
    store = Store(folder / "dataset")
    views = ViewsStore.create_or_open(store, write_plan(store, header, rows))
    (meshes / "02958343/f_gone/models/model_normalized.obj").unlink()
    return views


def _write(meshes: Path, name: str, obj: str, mtl: str | None) -> None:
    path = write_mesh(meshes / "02958343" / name / "models", obj, mtl)
    path.rename(path.with_name("model_normalized.obj"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[ViewsStore, dict[str, Any]]:
    views = make_dataset(tmp_path_factory.mktemp("job"), per_shard=8)
    return views, render_shard(views.store.url, 0, "first")


def test_good_objects_are_stored_and_broken_ones_recorded(dataset: tuple[ViewsStore, dict[str, Any]]) -> None:
    views, summary = dataset
    assert (summary["n_ok"], summary["n_failed"], summary["skipped"]) == (5, 3, False)
    assert summary["seconds"] > summary["render_s"] > 0
    assert views.done() == {0}
    failures = {object_id: failure for _, object_id, failure in views.failures()}
    assert {object_id: failure.kind for object_id, failure in failures.items()} == KINDS
    for object_id, failure in failures.items():
        assert failure.reason
        assert failure.repro == f"fpipe repro {views.store.url} {object_id}"
        with pytest.raises(ObjectUnavailableError):
            views.read(views.plan.row_of(object_id))


def test_stored_views_are_what_the_worker_renders(
    dataset: tuple[ViewsStore, dict[str, Any]], worker: BlenderWorker
) -> None:
    views, _ = dataset
    source = make_source(views.plan.header.source)
    for row in np.flatnonzero(views.status() == Status.OK):
        entry = views.plan.rows[int(row)]
        stored = views.read(int(row))
        cam2world, intrinsics, heldout = object_cameras(CONFIG, entry.object_id)
        again = worker.render(source.fetch(entry, Path("/nowhere")), cam2world, intrinsics, CONFIG)
        np.testing.assert_array_equal(stored.images, again.images)
        np.testing.assert_array_equal(stored.cam2world, cam2world)
        np.testing.assert_array_equal(stored.intrinsics, intrinsics)
        np.testing.assert_array_equal(stored.heldout, heldout)
        np.testing.assert_array_equal(stored.mesh_to_world, again.mesh_to_world)
        assert stored.heldout.sum() == 1
        assert stored.has_alpha


def test_the_sidecar_says_what_each_object_cost(dataset: tuple[ViewsStore, dict[str, Any]]) -> None:
    info = dataset[0].shard_info(0)["car-a"]
    assert info["n_faces"] == 24
    assert info["render_s"] > 0
    assert info["fetch_s"] >= 0
    assert info["warnings"] == []
    assert len(info["mesh_sha256"]) == 64


def test_objects_have_cameras_of_their_own(dataset: tuple[ViewsStore, dict[str, Any]]) -> None:
    views, _ = dataset
    first, second = (views.read(views.plan.row_of(f"car-{name}")).cam2world for name in "ac")
    assert np.abs(first - second).max() > 0.1


def test_a_done_shard_is_skipped_and_a_committed_one_published(
    dataset: tuple[ViewsStore, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    views, summary = dataset
    monkeypatch.setattr(render_jobs.job, "BlenderWorker", None)  # nothing may be rendered
    again = render_shard(views.store.url, 0, "second")
    assert again["skipped"]
    assert (again["n_ok"], again["n_failed"], again["attempt"]) == (5, 3, summary["attempt"])
    (Path(views.store.url) / views.marker_key(0)).unlink()
    assert views.done() == frozenset()
    assert render_shard(views.store.url, 0, "third")["skipped"]
    assert views.done() == {0}


def test_shards_hold_the_same_bytes_however_they_are_cut(
    dataset: tuple[ViewsStore, dict[str, Any]], tmp_path: Path
) -> None:
    views, _ = dataset
    cut = make_dataset(tmp_path, per_shard=5)
    for shard in (1, 0):
        render_shard(cut.store.url, shard, f"attempt-{shard}")
    np.testing.assert_array_equal(cut.status(), views.status())
    for row in np.flatnonzero(views.status() == Status.OK):
        np.testing.assert_array_equal(cut.read(int(row)).images, views.read(int(row)).images)


def test_a_source_that_breaks_costs_one_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views = make_dataset(tmp_path, per_shard=8)
    fetch = render_jobs.sources.shapenet.ShapeNetSource.fetch

    def breaks(self: Any, entry: Any, folder: Path) -> Path:
        if entry.object_id == "car-c":
            raise ZeroDivisionError("a bug in the source")
        return fetch(self, entry, folder)

    monkeypatch.setattr(render_jobs.sources.shapenet.ShapeNetSource, "fetch", breaks)
    assert render_shard(views.store.url, 0, "first")["n_failed"] == 4
    failure = {object_id: failure for _, object_id, failure in views.failures()}["car-c"]
    assert failure.kind == "source_error"
    assert "ZeroDivisionError: a bug in the source" in failure.reason
    assert "in breaks" in failure.detail


def test_a_source_out_of_reach_ends_the_task_and_commits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = make_dataset(tmp_path, per_shard=8)

    def unreachable(self: Any, entry: Any, folder: Path) -> Path:
        raise TransientError("connection reset")

    monkeypatch.setattr(render_jobs.sources.shapenet.ShapeNetSource, "fetch", unreachable)
    with pytest.raises(TransientError):
        render_shard(views.store.url, 0, "first")
    assert views.done() == frozenset()
    assert not views.store.exists(views.spec.shard_key(0))


@pytest.mark.parametrize("kind", [EnvironmentProblem, TransientError])
def test_a_source_that_is_gone_is_no_failure_of_its_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    views = make_dataset(tmp_path, per_shard=8)
    if kind is EnvironmentProblem:
        (tmp_path / "meshes").rename(tmp_path / "elsewhere")
    else:
        monkeypatch.setattr(os, "lstat", stale)
    with pytest.raises(kind):
        render_shard(views.store.url, 0, "first")
    monkeypatch.undo()
    assert views.done() == frozenset()


def stale(path: Any, **more: Any) -> os.stat_result:
    """Stands for a network folder whose server was restarted."""
    if "meshes" in str(path):
        raise OSError(errno.ESTALE, "Stale file handle", str(path))
    return os.stat(path, follow_symlinks=False, **more)  # noqa: PTH116 stands for lstat


def test_a_tiny_deadline_fails_objects_and_not_the_shard(tmp_path: Path) -> None:
    views = make_dataset(tmp_path, per_shard=1)
    summary = render_shard(views.store.url, 0, "first", {"deadline_s": 1e-3})
    assert (summary["n_ok"], summary["n_failed"]) == (0, 1)
    assert views.failures()[0][2].kind == "timeout"


def test_shards_and_datasets_that_do_not_exist(
    dataset: tuple[ViewsStore, dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(UsageError):
        render_shard(dataset[0].store.url, 1, "first")
    with pytest.raises(UsageError):
        render_shard(str(tmp_path / "nothing"), 0, "first")


def test_repro_says_what_the_stage_recorded(dataset: tuple[ViewsStore, dict[str, Any]]) -> None:
    views, _ = dataset
    for _, object_id, failure in views.failures():
        found = repro(views.store.url, object_id).failure
        assert found is not None
        assert (found.kind, found.reason) == (failure.kind, failure.reason)
    with pytest.raises(UsageError, match="car-zzz"):
        repro(views.store.url, "car-zzz")


def test_repro_saves_the_pictures_that_the_stage_stored(
    dataset: tuple[ViewsStore, dict[str, Any]], tmp_path: Path
) -> None:
    views, _ = dataset
    found = repro(views.store.url, "car-a", out=tmp_path / "new" / "folder")
    assert found.failure is None
    assert found.info["n_faces"] == 24
    assert [path.name for path in found.pictures] == [f"car-a-view-{number:03d}.png" for number in range(5)]
    stored = views.read(views.plan.row_of("car-a")).images
    for path, expected in zip(found.pictures, stored, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), expected)
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentProblem, match="--out"):
        repro(views.store.url, "car-a", out=tmp_path / "file" / "below")


def test_repro_finds_meshes_that_have_moved(
    dataset: tuple[ViewsStore, dict[str, Any]], tmp_path: Path
) -> None:
    """On another machine the meshes may be elsewhere."""
    views, _ = dataset
    source = Path(views.plan.header.source["path"])
    moved = tmp_path / "elsewhere"
    source.rename(moved)
    try:
        with pytest.raises(EnvironmentProblem, match="not there or empty"):
            repro(views.store.url, "car-a")
        assert repro(views.store.url, "car-a", path=str(moved)).failure is None
    finally:
        moved.rename(source)


def test_what_the_store_refuses_is_the_objects_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = BlenderWorker.render

    def render(self: BlenderWorker, *args: Any) -> Any:
        found = real(self, *args)
        return (
            found._replace(mesh_to_world=np.full((4, 4), np.nan, np.float32))
            if "/c/" in str(args[0])
            else found
        )

    monkeypatch.setattr(BlenderWorker, "render", render)
    views = make_dataset(tmp_path, per_shard=8)
    assert render_shard(views.store.url, 0, "first")["n_failed"] == 4
    failure = {object_id: failure for _, object_id, failure in views.failures()}["car-c"]
    assert failure.kind == "render_error"
    assert "mesh_to_world: not finite" in failure.reason
