"""A small dataset of coloured discs, written through the real storage API, and a renderer that stands in for
the trained one: tests of evaluation and report need a store, not a training.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.evaluate import evaluate_object
from pipeline.metrics import composite
from render_jobs.cameras import hemisphere_cameras, intrinsics
from storage.documents import dump_document
from storage.layout import run_folder, shared_key
from storage.plan import Plan, PlanHeader, write_plan
from storage.planes import FitHeader, PlanesStore, publish_fit
from storage.records import Failure, ObjectFit, ObjectViews, PlanRow
from storage.store import Store
from storage.views import ViewsStore

SIZE_PX = 32
N_VIEWS = 10
SHARED_VERSION = "0123456789abcdef"
EVIL_ID = "<script>alert(1)</script>&\"'"


@dataclass
class DiscRenderer:
    """Renders a code: coefficients 0 to 2 are the disc's colour. Counts the views that it was asked for."""

    n_views: int = 0
    cameras: list[np.ndarray] = field(default_factory=list)

    def render(
        self, micro: np.ndarray | None, coefficients: np.ndarray, cam2world: np.ndarray, matrices: np.ndarray
    ) -> np.ndarray:
        self.n_views += len(cam2world)
        self.cameras.append(np.asarray(cam2world))
        rgba = disc(np.asarray(coefficients[:3], dtype=np.float64), len(cam2world))
        return 0.98 * composite(rgba)

    def ceiling(self, rgb: np.ndarray) -> np.ndarray:
        return 0.99 * rgb


def disc(colour: np.ndarray, n: int) -> np.ndarray:
    """RGBA views [n, 32, 32, 4] of a disc of one colour."""
    place = (np.arange(SIZE_PX) + 0.5) / SIZE_PX - 0.5
    inside = np.hypot(*np.meshgrid(place, place)) < 0.3
    rgba = np.zeros((n, SIZE_PX, SIZE_PX, 4), dtype=np.uint8)
    rgba[:, inside, :3] = np.rint(255 * np.clip(colour, 0, 1))
    rgba[:, inside, 3] = 255
    return rgba


def write_small_dataset(root: Path, n_objects: int = 10, classes: tuple[str, ...] = ("car", "sofa")) -> Store:
    """Write plan, views, a published fit "base", shared metadata and one run record.

    Row 1 has the id `EVIL_ID`, row 2 failed in rendering, row 3 in fitting; odd rows are of regime 1.
    """
    store = Store(root)
    ids = [EVIL_ID if row == 1 else f"object-{row:03d}" for row in range(n_objects)]
    rows = [
        PlanRow(row, ids[row], classes[row % len(classes)], "test", f"{row}", f"f{row}")
        for row in range(n_objects)
    ]
    header = PlanHeader(
        n_objects=n_objects, n_views=N_VIEWS, height=SIZE_PX, width=SIZE_PX, objects_per_views_shard=4
    )
    plan = write_plan(store, header, rows)
    write_views(store, plan)
    write_fit(store, plan)
    meta = {"schema_version": "1.0", "box_half": 0.55, "axes": "xyz", "f_mic": 2, "f_mac": 3, "n_base": 4}
    points = [[step, "warmup" if step < 20 else "joint", {"latent": 1.0 / step}] for step in range(1, 41)]
    document = dump_document({**meta, "curve": points}, readable=True)
    store.create(shared_key(SHARED_VERSION, "shared.json"), document)
    run = {
        "stage": "render",
        "seconds": 12.5,
        "summary": {"objects_ok": n_objects - 1},
        "config": {"views": 10},
    }
    store.create(f"{run_folder('render', 'r1')}/run.json", json.dumps(run).encode())
    return store


def write_views(store: Store, plan: Plan) -> None:
    """Views of every object; row 2 failed."""
    views = ViewsStore.create_or_open(store, plan)
    for shard in range(views.n_shards):
        builder = views.builder(shard, f"views-{shard}")
        for row in views.shard_rows(shard):
            if row == 2:
                builder.fail(
                    row, Failure("no_faces", "the mesh <b>has no faces</b>", "", f"fpipe repro {row}")
                )
            else:
                builder.add(row, object_views(row))
        builder.commit()


def object_views(row: int) -> ObjectViews:
    """All views of one object; two are held out."""
    heldout = np.zeros(N_VIEWS, dtype=bool)
    heldout[[2, 7]] = True
    matrix = intrinsics(1.02, SIZE_PX, SIZE_PX)
    return ObjectViews(
        images=disc(colour(row), N_VIEWS),
        cam2world=hemisphere_cameras(N_VIEWS, 1.3, row),
        intrinsics=np.repeat(matrix[None], N_VIEWS, axis=0),
        heldout=heldout,
        mesh_to_world=np.eye(4, dtype=np.float32),
    )


def colour(row: int) -> np.ndarray:
    return np.random.default_rng(row).random(3)


def write_fit(store: Store, plan: Plan, name: str = "base", bad: int | None = None) -> None:
    """A fit, evaluated as a fit job does; row 3 failed, and row 2 has no views.

    With a bad row, all others are equally good, and the loss of the row after the next fell to the end.
    """
    n_objects = plan.header.n_objects
    header = FitHeader(
        name=name,
        shared_version=SHARED_VERSION,
        fit_config={"latent_steps": 3},
        fit_config_hash="aa",
        n_objects=n_objects,
        f_mic=2,
        resolution=4,
        n_base=4,
        objects_per_shard=3,
    )
    planes = PlanesStore.create_or_open(store, plan, header)
    for shard in range(planes.n_shards):
        builder = planes.builder(shard, f"fit-{shard}")
        for row in planes.shard_rows(shard):
            if row in (2, 3):
                builder.fail(row, Failure("no_views" if row == 2 else "fit_diverged", "not finite"))
            else:
                off = 0.01 * row if bad is None else 0.5 if row == bad else 0.02
                first = 2.0 if bad is not None and row == bad + 2 else 1.0
                curve = [[20 * (i + 1), first if i < 6 else 1.0] for i in range(8)]
                builder.add(row, evaluated_fit(row, off), {"curve": curve, "steps": [160, 0]})
        builder.commit()
    publish_fit(store, name)


def evaluated_fit(row: int, off: float | None = None) -> ObjectFit:
    """The fit of one object: the right colour, off by so much, or the less right the higher the row."""
    own = object_views(row)
    off = 0.01 * row if off is None else off
    code = np.append(np.clip(colour(row) + off, 0, 1), 0.5).astype(np.float32)
    renderer, heldout = DiscRenderer(), own.heldout
    figures = evaluate_object(
        renderer.render(None, code, own.cam2world[heldout], own.intrinsics[heldout]),
        renderer.ceiling(composite(own.images[heldout])),
        own.images[heldout],
        own.cam2world[heldout],
        own.images[~heldout],
        own.cam2world[~heldout],
    )
    micro = np.full((3, 2, 4, 4), row, dtype=np.float32)
    return ObjectFit(micro, code, 1 if row % 2 else 2, figures)
