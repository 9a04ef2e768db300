"""A small dataset of random fits for the tests of exports: awkward ids, failures, a secret in its source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from storage.layout import shared_key
from storage.plan import PlanHeader, read_plan, write_plan
from storage.planes import FitHeader, PlanesStore, publish_fit
from storage.records import Failure, ObjectFit, PlanRow
from storage.store import Store

IDS = ("sofa-0", "car.v2", 'a/b "<c>', "car-3", "sofa-4", "car-5")
CLASSES = ("sofa", "car")
FAILED, UNFITTED = 3, 5
F_MIC, F_MAC, K, M = 2, 3, 4, 5
VERSION, WITHOUT_BASE = "abcd" * 4, "ef01" * 4


def object_fit(row: int, scale: float = 1.0) -> ObjectFit:
    rng = np.random.default_rng(row)
    micro = (scale * rng.normal(size=(3, F_MIC, K, K))).astype(np.float16)
    metrics = {"psnr_db": 20.0 + row, "ssim": 0.9}
    return ObjectFit(micro, rng.normal(size=M).astype(np.float32), 1 + row % 2, metrics)


def make_dataset(root: Path, base_scale: float = 1.0) -> Store:
    """Six objects in three shards; row 3 failed, and the shard of rows 4 and 5 holds a failure, too."""
    store = Store(root)
    rows = [PlanRow(i, name, CLASSES[i % 2], "test", f"{i}", f"f{i}") for i, name in enumerate(IDS)]
    source = {"kind": "shapenet", "path": "/secret/place"}
    header = PlanHeader(
        n_objects=len(IDS), n_views=2, height=8, width=8, objects_per_views_shard=2, source=source
    )
    write_plan(store, header, rows)
    base = base_scale * np.random.default_rng(9).normal(size=(M, 3, F_MAC, K, K))
    for version, planes in ((VERSION, base), (WITHOUT_BASE, base[:0, :, :0])):
        tensors = safetensors.numpy.save({"base_planes": np.ascontiguousarray(planes, np.float32)})
        store.create(shared_key(version, "base_planes.safetensors"), tensors)
        store.create(shared_key(version, "shared.json"), json.dumps({"box_half": 0.55}).encode())
    fill(PlanesStore.create_or_open(store, read_plan(store), fit_header()), range(3))
    publish_fit(store, "main")
    return store


def fit_header(**changes: Any) -> FitHeader:
    values = {"name": "main", "shared_version": VERSION, "fit_config_hash": "c0ffee", "n_objects": len(IDS)}
    sizes = {"f_mic": F_MIC, "resolution": K, "n_base": M, "objects_per_shard": 2}
    return FitHeader(**{**values, **sizes, **changes})


def fill(planes: PlanesStore, shards: range) -> None:
    for shard in shards:
        builder = planes.builder(shard, f"a{shard}")
        for row in planes.shard_rows(shard):
            if row in (FAILED, UNFITTED):
                builder.fail(row, Failure("no_views", "no faces | <b>none</b>"))
            else:
                builder.add(row, object_fit(row))
        builder.commit()
