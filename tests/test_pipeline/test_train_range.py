"""train-shared refuses ray ranges that would cut objects off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.model.config import GeometryConfig
from pipeline.train_stage import _require_range
from storage.errors import ConfigError
from storage.plan import PlanHeader, write_plan
from storage.records import ObjectViews, PlanRow
from storage.store import Store
from storage.views import ViewsStore
from tests.test_pipeline.small_dataset import N_VIEWS, SIZE_PX, object_views, write_small_dataset


def test_our_own_cameras_suit_the_default(tmp_path: Path) -> None:
    _require_range(write_small_dataset(tmp_path), GeometryConfig())


@pytest.mark.parametrize(("near", "far"), [(0.9, 1.85), (0.75, 1.7)])
def test_ranges_that_cut_objects_off(tmp_path: Path, near: float, far: float) -> None:
    # Cameras at 1.3, objects within 0.5: rays are needed from 0.8 to 1.8.
    with pytest.raises(
        ConfigError, match=r"geometry\.near=0\.79? --set train\.geometry\.far=1\.8|near=0\.8 "
    ):
        _require_range(write_small_dataset(tmp_path), GeometryConfig(near=near, far=far))


def test_the_setting_that_is_named_helps(tmp_path: Path) -> None:
    views = object_views(0)
    far_away = views.cam2world.copy()
    far_away[:, :3, 3] *= np.linspace(1.0, 2.0, N_VIEWS, dtype=np.float32)[:, None]
    store = Store(tmp_path)
    header = PlanHeader(
        n_objects=1, n_views=N_VIEWS, height=SIZE_PX, width=SIZE_PX, objects_per_views_shard=1
    )
    builder = ViewsStore.create_or_open(
        store, write_plan(store, header, [PlanRow(0, "a", "car", "nerf", "0", "f")])
    ).builder(0, "a")
    builder.add(0, ObjectViews(views.images, far_away, views.intrinsics, views.heldout, views.mesh_to_world))
    builder.commit()
    with pytest.raises(ConfigError) as caught:
        _require_range(store, GeometryConfig())
    words = str(caught.value).split()
    given = {word.split("=")[0].split(".")[-1]: float(word.split("=")[1]) for word in words if "=" in word}
    assert given["far"] == pytest.approx(3.1, abs=0.011)
    _require_range(store, GeometryConfig(near=given["near"], far=given["far"]))
