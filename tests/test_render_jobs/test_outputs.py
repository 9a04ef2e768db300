"""Depth and normals through the real job: stored with the views, and mended with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from render_jobs.config import RenderConfig
from render_jobs.job import ObjectRenderer, render_shard
from render_jobs.outputs import ShardOutputs, pass_stores
from render_jobs.retry import retry_shard
from render_jobs.worker import BlenderWorker
from storage.errors import ObjectUnavailableError
from storage.lease import Lease
from storage.passes import PassStore
from storage.plan import PlanHeader, write_plan
from storage.records import Failure, PlanRow
from storage.replacement import finish_round, open_round
from storage.store import Store
from storage.verify import verify
from storage.views import ViewsStore
from tests.test_render_jobs.meshes import CUBE, write_mesh

pytestmark = pytest.mark.bpy

CONFIG = RenderConfig(views=3, width=32, height=32, passes=("normals", "depth"))
NAMES = ("a", "b", "c")


def make_dataset(folder: Path, broken: str = "") -> ViewsStore:
    """Three cubes, one of which may be broken."""
    for name in NAMES:
        path = folder / "meshes" / "02958343" / name / "models"
        write_mesh(path, "no mesh" if name == broken else CUBE).rename(path / "model_normalized.obj")
    header = PlanHeader(
        n_objects=3,
        n_views=CONFIG.views,
        height=CONFIG.height,
        width=CONFIG.width,
        objects_per_views_shard=3,
        source={"kind": "shapenet", "path": str(folder / "meshes")},
        render_config=CONFIG.model_dump(mode="json"),
    )
    location = "02958343/{}/models/model_normalized.obj"
    rows = [PlanRow(i, f"car-{n}", "car", "shapenet", location.format(n), n) for i, n in enumerate(NAMES)]
    store = Store(folder / "dataset")
    return ViewsStore.create_or_open(store, write_plan(store, header, rows))


def test_passes_are_stored_with_the_views(tmp_path: Path) -> None:
    views = make_dataset(tmp_path)
    assert render_shard(views.store.url, 0, "first")["n_ok"] == 3
    depth, normals = (PassStore.open(views.store, name) for name in ("depth", "normals"))
    for row in range(3):
        visible = views.read(row).images[..., 3] == 255
        assert visible.any()
        assert np.isfinite(depth.read(row)[visible]).all()
        np.testing.assert_allclose(np.linalg.norm(normals.read(row)[visible], axis=-1), 1.0, atol=2e-3)
    assert verify(views.store, full=True) == []
    assert render_shard(views.store.url, 0, "again")["skipped"]


def test_a_retry_mends_views_and_passes(tmp_path: Path) -> None:
    views = make_dataset(tmp_path, broken="b")
    render_shard(views.store.url, 0, "first")
    with pytest.raises(ObjectUnavailableError, match="car-b"):
        PassStore.open(views.store, "depth").read(1)
    before = PassStore.open(views.store, "depth").read(0)
    (tmp_path / "meshes/02958343/b/models/model_normalized.obj").write_text(CUBE)
    groups = [*pass_stores(views), views]
    with Lease(views.store, "test") as lease:
        rounds = {group.spec.kind: open_round(group, lease.token, [0]).generation for group in groups}
        generation = rounds.pop("views")
        done = retry_shard(views.store.url, 0, "r", lease.token, generation, pass_generations=rounds)
        for group in groups:
            finish_round(group, lease.token)
    assert (done["n_ok"], done["n_failed"]) == (1, 0)
    depth = PassStore.open(views.store, "depth")
    assert np.array_equal(depth.read(0), before)
    assert np.isfinite(depth.read(1)).any()
    assert ViewsStore.open(views.store).read(1).images.any()
    assert verify(views.store, full=True) == []


def test_what_failed_in_a_committed_pass_fails_in_the_views(tmp_path: Path) -> None:
    """Another attempt committed a pass, in which one object failed, and died before its views."""
    views = make_dataset(tmp_path)
    renderer = ObjectRenderer.of_plan(views.store.url, views.plan, 0)
    with BlenderWorker() as worker:
        died = ShardOutputs(views, 0, "died")
        renderer.add(died, worker, views.plan.rows[0])
        died.fail(1, Failure("timeout", "not finished after 1 s"))
        renderer.add(died, worker, views.plan.rows[2])
    store, builder = died._passes[0]
    builder.commit()
    summary = render_shard(views.store.url, 0, "second")
    assert (summary["n_ok"], summary["n_failed"]) == (2, 1)
    assert [(row, failure.kind) for row, _, failure in views.failures()] == [(1, "timeout")]
    assert store.spec.kind == "depth"
