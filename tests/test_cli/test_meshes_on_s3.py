"""Meshes and views behind a real S3 server on this machine, through sources and through the command line."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fsspec.asyn import AsyncFileSystem

from render_jobs.config import RenderConfig
from render_jobs.job import render_shard
from render_jobs.sources.base import ViewsSource, make_source
from render_jobs.sources.mesh_cache import MeshCache
from render_jobs.sources.procedural import write_object
from render_jobs.worker import RenderFailure
from storage.errors import TransientError, UsageError
from storage.plan import read_plan
from storage.store import Store
from storage.views import ViewsStore
from tests.conftest import TINY, fpipe
from tests.test_cli.conftest import BUCKET
from tests.test_render_jobs.view_files import SIZE_PX, write_fused_planes, write_nerf_synthetic


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cars and two sofas in ShapeNet's layout."""
    root = tmp_path_factory.mktemp("meshes")
    for class_name, n in (("car", 3), ("sofa", 2)):
        for k in range(n):
            write_object(class_name, k, root)
    return root


@pytest.mark.parametrize("kind", ["shapenet", "folder"])
def test_the_list_and_the_files_are_those_of_the_disk(
    s3: AsyncFileSystem, meshes: Path, kind: str, tmp_path: Path
) -> None:
    s3.put(str(meshes), f"{BUCKET}/v2", recursive=True)
    near = make_source({"kind": kind, "path": str(meshes)})
    far = make_source({"kind": kind, "path": f"{BUCKET}/v2"})
    entries = far.list({}, 0)
    assert entries == near.list({}, 0)
    assert len(entries) == 5
    assert Counter(e.class_name for e in far.list({"car": 2, "sofa": 1}, 0)) == {"car": 2, "sofa": 1}
    mesh = far.fetch(entries[0], tmp_path)
    local = near.fetch(entries[0], tmp_path)
    assert (mesh.up, mesh.front) == (local.up, local.front)
    assert mesh.path.read_bytes() == local.path.read_bytes()
    beside = local.path.with_suffix(".mtl")
    assert mesh.path.with_suffix(".mtl").read_bytes() == beside.read_bytes()


def test_a_missing_mesh_and_a_lost_server_are_told_apart(
    s3: AsyncFileSystem, meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put(str(meshes), f"{BUCKET}/v2", recursive=True)
    cache = MeshCache(tmp_path / "cache", 10**8)
    source = make_source({"kind": "shapenet", "path": f"{BUCKET}/v2"}, cache)
    kept, gone = source.list({"car": None}, 0)[:2]
    source.fetch(kept, _new(tmp_path / "a"))
    s3.rm(f"{BUCKET}/v2/{gone.location}")
    with pytest.raises(FileNotFoundError, match=gone.location):
        source.fetch(gone, _new(tmp_path / "b"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    type(s3).clear_instance_cache()
    lost = make_source({"kind": "shapenet", "path": f"{BUCKET}/v2"}, cache)
    with pytest.raises(TransientError, match="02958343"):
        lost.fetch(gone, _new(tmp_path / "c"))
    assert lost.fetch(kept, _new(tmp_path / "d")).path.is_file(), "the cache needs no server"


def test_a_missing_bucket_is_said(s3: AsyncFileSystem) -> None:
    with pytest.raises(UsageError, match="s3://nowhere/x is not a folder"):
        make_source({"kind": "shapenet", "path": "s3://nowhere/x"}).list({}, 0)


def test_views_on_s3_are_those_of_the_disk(
    s3: AsyncFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fused_planes(tmp_path / "views/authors", {"cars": ["c1", "c0"], "faces": ["f0"]})
    write_nerf_synthetic(tmp_path / "views/nerf/lego", {"train": 4, "test": 1})
    s3.put(str(tmp_path / "views"), f"{BUCKET}/views", recursive=True)
    config = RenderConfig(views=5, width=SIZE_PX, height=SIZE_PX)
    for kind, name in (("fused-planes", "authors"), ("fused-planes", "authors/small"), ("nerf", "nerf")):
        near = make_source({"kind": kind, "path": str(tmp_path / "views" / name)})
        far = make_source({"kind": kind, "path": f"{BUCKET}/views/{name}"})
        assert isinstance(near, ViewsSource)
        assert isinstance(far, ViewsSource)
        entries = far.list({}, 0)
        assert entries == near.list({}, 0)
        assert far.measure(entries) == near.measure(entries) == (5, SIZE_PX, SIZE_PX)
        for entry in entries:
            here, there = near.load(entry, config)[0], far.load(entry, config)[0]
            for field in ("images", "cam2world", "intrinsics", "heldout"):
                np.testing.assert_array_equal(getattr(here, field), getattr(there, field))
    s3.rm(f"{BUCKET}/views/nerf/lego/train/r_2.png")
    with pytest.raises(RenderFailure, match="r_2"):
        make_source({"kind": "nerf", "path": f"{BUCKET}/views/nerf"}).load(entries[0], config)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    type(s3).clear_instance_cache()
    lost = make_source({"kind": "nerf", "path": f"{BUCKET}/views/nerf"})
    with pytest.raises(TransientError):
        lost.load(entries[0], config)


def _new(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.bpy
def test_the_command_line_renders_from_s3_through_the_cache(
    s3: AsyncFileSystem, s3_environment: dict[str, str], meshes: Path, tmp_path: Path
) -> None:
    s3.put(str(meshes), f"{BUCKET}/v2", recursive=True)
    cache = tmp_path / "cache"
    arguments = (
        "--source",
        "shapenet",
        "--path",
        f"{BUCKET}/v2",
        "--classes",
        "car:2,sofa:1",
        "--preset",
        TINY,
    )
    local = ("--executor", "local", "--set", f"compute.mesh_cache_dir={cache}")
    done = fpipe("render", tmp_path / "far", *arguments, *local, **s3_environment)
    assert done.code == 0, done.err
    assert len(list((cache / "entries").iterdir())) == 3
    near = tmp_path / "near"
    arguments = ("--source", "shapenet", "--path", meshes, "--classes", "car:2,sofa:1", "--preset", TINY)
    assert fpipe("render", near, *arguments, "--executor", "local").code == 0
    images = [_images(tmp_path / "far"), _images(near)]
    assert images[0] == images[1]
    plan = read_plan(Store(tmp_path / "far"))
    assert Counter(row.class_name for row in plan.rows) == {"car": 2, "sofa": 1}
    s3.rm(f"{BUCKET}/v2", recursive=True)
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "far/plan", again / "plan")
    views = ViewsStore.create_or_open(Store(again), read_plan(Store(again)))
    for shard in range(views.n_shards):
        summary = render_shard(str(again), shard, "again", None, {"folder": cache, "max_bytes": 10**8})
        assert summary["n_failed"] == 0, "the cache alone is enough"


def _images(root: Path) -> dict[str, bytes]:
    views = ViewsStore.open(Store(root))
    return {row.object_id: views.read(row.row).images.tobytes() for row in views.plan.rows}
