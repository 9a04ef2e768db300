"""A training of 12 steps on three objects, through the job that a worker runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from pipeline.train.config import TrainConfig
from pipeline.train.job import TrainResources, train_rank
from storage.plan import PlanHeader, write_plan
from storage.records import PlanRow
from storage.store import Store
from storage.views import ViewsStore
from tests.test_pipeline.small_dataset import N_VIEWS, SIZE_PX, object_views

TRAIN = TrainConfig.model_validate(
    {
        "objects": 3,
        "autoencoder": {"size": "tiny", "factor": 4, "steps": 4, "batch_size": 2, "crop_px": 0},
        "resolution": 8,
        "f_mic": 2,
        "f_mac": 4,
        "n_base": 2,
        "width": 8,
        "geometry": {"n_coarse": 8, "n_fine": 4},
        "warmup": {"steps": 4, "objects": 2, "pixels": 16},
        "joint": {"steps": 4, "objects": 2},
    }
).model_dump(mode="json")
MONITOR = {"scalars_every": 2, "pictures": 2, "objects": 2}


def disc_dataset(url: str | Path, noise: bool = False, empty: int | None = None) -> Store:
    """Three rendered objects.

    Args:
        url: Where.
        noise: Noise in place of their held-out views.
        empty: The object whose silhouettes have no point in common.
    """
    store = Store(url)
    rows = [PlanRow(row, f"disc-{row}", "disc", "test", f"{row}", f"f{row}") for row in range(3)]
    header = PlanHeader(
        n_objects=3, n_views=N_VIEWS, height=SIZE_PX, width=SIZE_PX, objects_per_views_shard=3
    )
    builder = ViewsStore.create_or_open(store, write_plan(store, header, rows)).builder(0, "a")
    for row in range(3):
        own = object_views(row)
        if noise:
            images = own.images.copy()
            images[own.heldout] = np.random.default_rng(row).integers(0, 256, images[own.heldout].shape)
            own = replace(own, images=images)
        if row == empty:
            images = own.images.copy()
            images[3, ..., 3] = 0
            own = replace(own, images=images)
        builder.add(row, own)
    builder.commit()
    return store


def train_discs(store: Store, monitor: dict[str, Any] | None = MONITOR, stop: int | None = None) -> str:
    """Train with a checkpoint after every step, up to a step that is lost; returns the shared_version."""

    def on_step(step: int, figures: dict[str, Any]) -> None:
        if step == stop:
            raise InterruptedError

    with mock.patch("pipeline.train.job._is_due", return_value=True):
        done = train_rank(
            store.url, TRAIN, 0, 1, TrainResources(threads=1, checkpoint_every_s=60.0), on_step, monitor
        )
    return str(done["shared_version"])
