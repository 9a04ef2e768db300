"""What the forecast says of requests, against those that a server on this machine is sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import fsspec
import pytest
import yaml

from pipeline.config import load_config
from pipeline.fit.job import fit_shard
from pipeline.forecast_requests import Requests, fit_requests, render_requests
from pipeline.render_stage import make_plan
from render_jobs.job import render_shard
from render_jobs.outputs import pass_stores
from storage.store import Store
from storage.views import ViewsStore
from tests.conftest import TINY
from tests.s3_server import Shim

pytestmark = pytest.mark.bpy


def counted(requests: Sequence[tuple[str, str]]) -> Requests:
    """S3 prices a listing like a PUT, and a HEAD like a GET."""
    puts = sum(method == "PUT" or "list-type" in path for method, path in requests)
    return Requests(puts, len(requests) - puts)


def test_of_rendered_shards(s3_root: str, s3_shim: Shim) -> None:
    settings = ["source.classes={car: 2}", "render.views=2", "render.width=16", "render.height=16"]
    config = load_config(yaml.safe_load(TINY.read_text()), settings=[*settings, "render.passes=[depth]"])
    store = Store(s3_root)
    views = ViewsStore.create_or_open(store, make_plan(store, config, workers=1))
    pass_stores(views)
    s3_shim.requests.clear()
    for shard in range(views.n_shards):
        render_shard(s3_root, shard, "counted")
    assert counted(s3_shim.requests) == render_requests(2, per_shard=1, n_passes=1)


def test_of_fitted_shards(tiny_dataset: Path, s3_root: str, s3_shim: Shim) -> None:
    fs, root = fsspec.filesystem("s3"), s3_root.removeprefix("s3://")
    for name in ("plan", "done", "shared", "views.zarr", "fits/default/header.json"):
        fs.put(str(tiny_dataset / name), f"{root}/{name}", recursive=True)
    for file in tiny_dataset.glob("fits/default/planes.zarr/**/zarr.json"):
        fs.put(str(file), f"{root}/{file.relative_to(tiny_dataset)}")
    s3_shim.requests.clear()
    for shard in range(2):
        assert fit_shard(s3_root, "default", shard, "counted")["n_ok"] == 1
    assert counted(s3_shim.requests) == fit_requests(2, per_shard=1, per_views_shard=1)


def test_fits_that_cross_shards_of_views() -> None:
    # Rows 0-2, 3-5, 6-7 of fits; 0-1, 2-3, 4-5, 6-7 of views: 2 + 2 + 1 pairs, each a marker and a tail.
    pairs = fit_requests(8, per_shard=3, per_views_shard=2).gets - fit_requests(8, 3, 8).gets
    assert pairs == 2 * (5 - 3)
