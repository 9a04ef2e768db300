"""Synthetic stores with very many done shards: what a snapshot, a resume scan and `status` read, and no more.

Plan segments, markers, derived `status` chunks and Zarr metadata are those of the project, made by its code;
there are no images and no planes, and of the shard files only those that are asked for. Files are written
without the protocol of a commit, which would take hours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pipeline.config import PipelineConfig
from pipeline.planned import write_config
from storage.arrays import encode_chunk
from storage.documents import SCHEMA_VERSION, dump_document
from storage.plan import Plan, PlanHeader, read_plan
from storage.plan_rows import SEGMENT_ROWS, write_segments
from storage.planes import FitHeader, PlanesStore, publish_fit
from storage.records import Failure, ObjectFit, PlanRow, Status
from storage.sharded import ShardedStore
from storage.store import Store
from storage.views import ViewsStore

PER_SHARD = 100
N_BASE = 50
FAILED_EVERY = 1000
"""Shards of which the first object has failed: one of so many."""
CLASSES = ("cabinet", "car", "sofa", "speaker")


def plan_rows(start: int, stop: int) -> Iterator[PlanRow]:
    """Rows as a source of files gives them: ids and locations of some 40 bytes, a SHA-256."""
    for row in range(start, stop):
        name = CLASSES[row % len(CLASSES)]
        object_id = f"{name}-{row:08d}-1a6f615e8b1b5ae4"
        fingerprint = hashlib.sha256(object_id.encode()).hexdigest()
        yield PlanRow(row, object_id, name, "folder", f"{name}/{object_id}.obj", fingerprint)


def write_dataset(
    root: Path, n_shards: int, with_shard_files: bool = False, per_shard: int = PER_SHARD
) -> None:
    """Write a plan, views and a fit without micro planes, all of whose shards are done."""
    store, n_objects = Store(root), n_shards * per_shard
    plan = _write_plan(store, n_objects, per_shard)
    views = ViewsStore.create_or_open(store, plan)
    header = FitHeader(
        name="main",
        shared_version="f00d" * 4,
        fit_config_hash="c0ffee",
        n_objects=n_objects,
        f_mic=0,
        resolution=64,
        n_base=N_BASE,
        objects_per_shard=per_shard,
    )
    planes = PlanesStore.create_or_open(store, plan, header)
    publish_fit(store, "main")
    for group in (views, planes):
        _mark_done(group, n_shards)
    shards = range(n_shards) if with_shard_files else range(0, n_shards, FAILED_EVERY)
    for shard in shards:
        _write_shard_file(planes, shard)


def _write_plan(store: Store, n_objects: int, per_shard: int) -> Plan:
    config = PipelineConfig.model_validate({"source": {"kind": "folder", "path": "/meshes"}})
    write_config(store, config)
    render = config.content("render")
    header = PlanHeader(
        n_objects=n_objects,
        n_views=config.render.views,
        height=config.render.height,
        width=config.render.width,
        objects_per_views_shard=per_shard,
        source=config.source.spec(),
        render_config=render,
    )
    segments = []
    for number, start in enumerate(range(0, n_objects, SEGMENT_ROWS)):
        rows = list(plan_rows(start, min(n_objects, start + SEGMENT_ROWS)))
        segments += write_segments(store, rows, number)
    document = {
        "schema_version": SCHEMA_VERSION,
        "header": header.model_dump(mode="json"),
        "classes": list(CLASSES),
        "rows_hash": "",
        "plan_hash": "synthetic",
        "segments": [asdict(segment) for segment in segments],
    }
    store.create("plan/header.json", dump_document(document))
    return read_plan(store)


def _mark_done(group: ShardedStore, n_shards: int) -> None:
    spec = group.spec.derived_spec("status")
    folder = group.store.local_path(f"{group.spec.group}/{spec.name}")
    done = group.store.local_path(group.spec.done)
    assert folder is not None and done is not None
    done.mkdir(parents=True)
    per_shard = group.spec.objects_per_shard
    values = np.full(per_shard, Status.OK, np.uint8)
    sound = encode_chunk(values, spec)
    values[0] = Status.FAILED
    failed = encode_chunk(values, spec)
    for shard in range(n_shards):
        one = int(shard % FAILED_EVERY == 0 and group.spec.kind == "planes")
        (folder / f"c.{shard}").write_bytes(failed if one else sound)
        marker = {
            "shard": shard,
            "attempt": f"{shard:016x}",
            "generation": 0,
            "schema_version": SCHEMA_VERSION,
        }
        counts = {"absent": 0, "ok": per_shard - one, "failed": one}
        (done / str(shard)).write_bytes(dump_document({**marker, **counts}))


def _write_shard_file(planes: PlanesStore, shard: int) -> None:
    """A whole sidecar of objects with metrics, coefficients and the notes that a fit leaves."""
    builder = planes.builder(shard, f"{shard:016x}")
    builder._statistics = bytes  # type: ignore[method-assign] # no channels: there are no shared components
    fit = ObjectFit(None, np.linspace(-1, 1, N_BASE, dtype=np.float32), 2, {"psnr_db": 28.0, "ssim": 0.9})
    notes = {"seconds": 31.25, "loss": [round(1 / step, 6) for step in range(1, 17)]}
    for row in planes.shard_rows(shard):
        if row % (planes.spec.objects_per_shard * FAILED_EVERY) == 0:
            builder.fail(row, Failure("diverged", "the loss is not finite any more", repro="fpipe repro …"))
        else:
            builder.add(row, fit, notes)
    path = planes.store.local_path(planes.spec.shard_key(shard))
    assert path is not None
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(builder.pack())


def stored_bytes(root: Path) -> dict[str, int]:
    """Bytes of what grows with the dataset: plan, markers, one derived array, a sidecar."""

    def total(folder: str) -> int:
        return sum(path.stat().st_size for path in (root / folder).iterdir() if path.is_file())

    planes = PlanesStore.open(Store(root))
    return {
        "plan": total("plan"),
        "markers": total("done/views"),
        "status": total("views.zarr/status"),
        "sidecar": planes.store.size(planes.spec.shard_key(0)),
    }
