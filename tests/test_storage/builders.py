"""Small datasets for the storage tests: random but seeded content of every kind."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from storage.documents import dump_document
from storage.plan import Plan, PlanHeader, write_plan
from storage.planes import FitHeader, PlanesStore, publish_fit
from storage.records import Failure, ObjectFit, ObjectViews, PlanRow
from storage.store import Store
from storage.views import ViewsStore

N_OBJECTS, N_VIEWS, SIZE = 5, 6, 8
F_MIC, F_MAC, K, M = 2, 3, 4, 7
FAILED_ROW = 3
SHARED_VERSION = "f00d" * 4
BASE_PLANES = "base_planes.safetensors"
NO_FACES = Failure("no_faces", "mesh has no faces", "stderr tail", "fpipe repro car-00003")


def plan_rows(n: int = N_OBJECTS) -> list[PlanRow]:
    classes = ["sofa", "car"]
    return [
        PlanRow(i, f"{classes[i % 2]}-{i:05d}", classes[i % 2], "procedural", f"/meshes/{i}", f"hash{i}")
        for i in range(n)
    ]


def plan_header(**changes: Any) -> PlanHeader:
    values: dict[str, Any] = {
        "n_objects": N_OBJECTS,
        "n_views": N_VIEWS,
        "height": SIZE,
        "width": SIZE,
        "views_per_chunk": 4,
        "objects_per_views_shard": 2,
        "render_config": {"views": N_VIEWS, "shading": "default", "camera": {"radius_world": 1.3}},
    }
    return PlanHeader(**{**values, **changes})


def make_plan(store: Store, **changes: Any) -> Plan:
    header = plan_header(**changes)
    return write_plan(store, header, plan_rows(header.n_objects))


def object_views(seed: int, v: int = N_VIEWS, size: int = SIZE) -> ObjectViews:
    rng = np.random.default_rng(seed)
    return ObjectViews(
        images=rng.integers(0, 256, (v, size, size, 4), dtype=np.uint8),
        cam2world=rng.normal(size=(v, 4, 4)).astype(np.float32),
        intrinsics=rng.normal(size=(v, 3, 3)).astype(np.float32),
        heldout=rng.random(v) < 0.3,
        mesh_to_world=rng.normal(size=(4, 4)).astype(np.float32),
        has_alpha=bool(seed % 2),
    )


def same_views(a: ObjectViews, b: ObjectViews) -> bool:
    names = ("images", "cam2world", "intrinsics", "heldout", "mesh_to_world")
    return a.has_alpha == b.has_alpha and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in names
    )


def fill_views(views: ViewsStore, failed: tuple[int, ...] = (FAILED_ROW,), attempt: str = "a") -> None:
    for shard in range(views.n_shards):
        builder = views.builder(shard, f"{attempt}{shard}")
        for row in views.shard_rows(shard):
            if row in failed:
                builder.fail(row, NO_FACES, {"seconds": 0.5})
            else:
                builder.add(row, object_views(row), {"seconds": np.float32(1.5)})
        builder.commit({"host": "here"})


def fit_header(**changes: Any) -> FitHeader:
    values: dict[str, Any] = {
        "name": "main",
        "shared_version": SHARED_VERSION,
        "fit_config": {"steps": 100, "optimiser": {"lr": 0.01}},
        "fit_config_hash": "c0ffee",
        "n_objects": N_OBJECTS,
        "f_mic": F_MIC,
        "resolution": K,
        "n_base": M,
        "objects_per_shard": 3,
    }
    return FitHeader(**{**values, **changes})


def object_fit(seed: int, f_mic: int = F_MIC, regime: int = 2) -> ObjectFit:
    rng = np.random.default_rng(1000 + seed)
    micro = rng.normal(size=(3, f_mic, K, K)).astype(np.float16) if f_mic else None
    metrics = {"psnr_db": 20.0 + seed, "ssim": 0.5, "lpips": float("nan")}
    return ObjectFit(micro, rng.normal(size=M).astype(np.float32), regime, metrics)


def fill_planes(planes: PlanesStore, failed: tuple[int, ...] = (FAILED_ROW,), attempt: str = "p") -> None:
    for shard in range(planes.n_shards):
        builder = planes.builder(shard, f"{attempt}{shard}")
        for row in planes.shard_rows(shard):
            if row in failed:
                builder.fail(row, Failure("no_views", "not rendered"))
            else:
                builder.add(row, object_fit(row, planes.header.f_mic), {"seconds": 2.0})
        builder.commit()


def base_planes(seed: int = 9) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=(M, 3, F_MAC, K, K)).astype(np.float32)


def safetensors_bytes(tensors: dict[str, np.ndarray[Any, Any]]) -> bytes:
    """Encode float32 tensors as the format's specification says, independent of the reader under test."""
    header: dict[str, Any] = {"__metadata__": {"format": "np"}}
    blob = b""
    for name, values in tensors.items():
        data = values.astype("<f4").tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(values.shape),
            "data_offsets": [len(blob), len(blob) + len(data)],
        }
        blob += data
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + blob


def write_shared(store: Store, version: str = SHARED_VERSION) -> None:
    tensors = safetensors_bytes({"base_planes": base_planes()})
    meta = {"box_half": 0.55, "n_base": M, "files": {BASE_PLANES: hashlib.sha256(tensors).hexdigest()}}
    store.create(f"shared/{version}/{BASE_PLANES}", tensors)
    store.create(f"shared/{version}/shared.json", dump_document(meta, readable=True))


def full_dataset(root: Path | str) -> Store:
    store = Store(root)
    plan = make_plan(store)
    fill_views(ViewsStore.create_or_open(store, plan))
    write_shared(store)
    fill_planes(PlanesStore.create_or_open(store, plan, fit_header()))
    publish_fit(store, "main")
    return store


def files_below(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
