"""Exported folders: whole or not there, the same views after an import, nothing passed on unasked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import load_config
from pipeline.export.folder import RECORD, safe_name
from pipeline.export.selection import ExportResult, Selection
from pipeline.export.views import VIEW_FORMATS, export_views
from pipeline.planned import planned
from pipeline.render_stage import make_plan
from render_jobs.job import render_shard
from storage.errors import EnvironmentProblem, StoreMismatchError, UsageError
from storage.plan import PlanHeader, write_plan
from storage.records import ObjectViews, PlanRow
from storage.store import Store
from storage.views import ViewsStore
from tests.test_pipeline.silent import Silent
from tests.test_pipeline.small_dataset import EVIL_ID, N_VIEWS, SIZE_PX, object_views, write_small_dataset


def export(store: Store, out: Path, accept_terms: bool = False, **chosen: Any) -> ExportResult:
    return export_views(store, "nerfstudio", out, Silent(), Selection(**chosen), accept_terms)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return write_small_dataset(tmp_path / "root")


def imported(root: Path, out: Path) -> ViewsStore:
    """What `fpipe render --source nerf` makes of an export."""
    store = Store(root)
    plan = make_plan(store, load_config({"source": {"kind": "nerf", "path": str(out)}}), 1)
    views = ViewsStore.create_or_open(store, plan)
    for shard in range(views.n_shards):
        render_shard(store.url, shard, "import")
    return views


def test_the_layout_of_an_export(store: Store, tmp_path: Path) -> None:
    result = export(store, tmp_path / "out")
    assert (result.written, result.skipped, result.exit_code) == (9, 0, 42)
    assert result.unavailable == {"object-002": "the mesh <b>has no faces</b>"}
    folder = tmp_path / "out" / "car" / "object-000"
    assert sorted(path.name for path in (folder / "images").iterdir()) == [
        f"{i:05d}.png" for i in range(N_VIEWS)
    ]
    values = json.loads((folder / "transforms.json").read_text())
    assert values["test_filenames"] == values["val_filenames"] == ["images/00002.png", "images/00007.png"]
    assert len(values["train_filenames"]) == N_VIEWS - 2
    assert (values["w"], values["h"], values["cx"], values["camera_model"]) == (
        SIZE_PX,
        SIZE_PX,
        16,
        "PINHOLE",
    )
    # OpenGL cameras look along −z: the third column points away from what they look at.
    matrix = np.array(values["frames"][0]["transform_matrix"])
    np.testing.assert_allclose(matrix[:3, 2] * 1.3, matrix[:3, 3], atol=1e-6)
    assert not (tmp_path / "out" / ".partial").exists()


def test_an_object_id_cannot_leave_the_folder(store: Store, tmp_path: Path) -> None:
    export(store, tmp_path / "out", objects=[EVIL_ID])
    [folder] = (tmp_path / "out" / "sofa").iterdir()
    assert (folder / "transforms.json").is_file()
    names = [safe_name(name) for name in ("..", "a/b", "a_b", ".x", "", "c:x", "ä b")]
    assert len(set(names)) == 7
    assert names[2] == "a_b"
    assert names[6] == "ä b"
    for name in names:
        assert len(Path(name).parts) == 1
        assert not name.startswith(".")


def test_views_survive_the_round_trip_bit_by_bit(store: Store, tmp_path: Path) -> None:
    export(store, tmp_path / "out")
    before, after = ViewsStore.open(store), imported(tmp_path / "again", tmp_path / "out")
    assert len(after.plan.rows) == 9
    for row in after.plan.rows:
        old = before.plan.row_of(row.object_id)
        assert before.plan.rows[old].class_name == row.class_name
        assert_same(before.read(old), after.read(row.row))


def assert_same(one: ObjectViews, other: ObjectViews) -> None:
    for name in ("images", "cam2world", "intrinsics", "heldout", "mesh_to_world", "has_alpha"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)


def test_views_without_alpha_and_with_lenses_of_their_own_survive_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = object_views(0)
    images = rng.integers(0, 256, base.images.shape, dtype=np.uint8)
    images[..., 3] = 255
    matrices = base.intrinsics.copy()
    matrices[:, [0, 1], [0, 1]] *= rng.uniform(0.9, 1.1, (N_VIEWS, 2)).astype(np.float32)
    matrices[:, :2, 2] += rng.normal(size=(N_VIEWS, 2)).astype(np.float32)
    world = rng.normal(size=(4, 4)).astype(np.float32)
    views = ObjectViews(images, base.cam2world, matrices, base.heldout, world, has_alpha=False)
    store = Store(tmp_path / "root")
    header = PlanHeader(
        n_objects=1, n_views=N_VIEWS, height=SIZE_PX, width=SIZE_PX, objects_per_views_shard=1
    )
    plan = write_plan(store, header, [PlanRow(0, "car-0", "car", "test", "0", "f")])
    builder = ViewsStore.create_or_open(store, plan).builder(0, "a")
    builder.add(0, views)
    builder.commit()
    export(store, tmp_path / "out")
    assert_same(views, imported(tmp_path / "again", tmp_path / "out").read(0))


def test_an_interrupted_export_goes_on(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def stops(views: ObjectViews, object_id: str, folder: Path) -> None:
        if len(written) == 3:
            (folder / "images").mkdir()
            raise KeyboardInterrupt
        written.append(folder)
        write(views, object_id, folder)

    write = VIEW_FORMATS["nerfstudio"]
    monkeypatch.setitem(VIEW_FORMATS, "nerfstudio", stops)
    with pytest.raises(KeyboardInterrupt):
        export(store, tmp_path / "out")
    assert len([*tmp_path.glob("out/*/*/transforms.json")]) == 3
    assert not (tmp_path / "out" / ".partial").exists()
    monkeypatch.setitem(VIEW_FORMATS, "nerfstudio", write)
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*/*/transforms.json")}
    result = export(store, tmp_path / "out")
    assert (result.written, result.skipped) == (6, 3)
    assert all(path.stat().st_mtime_ns == when for path, when in first.items())
    assert export(store, tmp_path / "out").written == 0


def test_a_selection(store: Store, tmp_path: Path) -> None:
    assert export(store, tmp_path / "a", classes=["sofa"], limit=2).written == 2
    assert sorted(path.name for path in (tmp_path / "a" / "sofa").iterdir())[1] == "object-003"
    assert not (tmp_path / "a" / "car").exists()
    assert export(store, tmp_path / "b", objects=["object-004"]).exit_code == 0
    for options, message in (
        ({"objects": ["nobody"]}, "nobody"),
        ({"classes": ["boat"]}, "car, sofa"),
        ({"objects": ["object-004"], "classes": ["sofa"]}, "in these classes"),
    ):
        with pytest.raises(UsageError, match=message):
            export(store, tmp_path / "c", **options)
    with pytest.raises(UsageError, match="nerfstudio"):
        export_views(store, "obj", tmp_path / "c", Silent())
    assert not (tmp_path / "c").exists()


def test_two_datasets_do_not_mix_in_one_folder(store: Store, tmp_path: Path) -> None:
    export(store, tmp_path / "out", limit=1)
    other = write_small_dataset(tmp_path / "other", n_objects=5)
    with pytest.raises(StoreMismatchError, match="another dataset"):
        export(other, tmp_path / "out")
    (tmp_path / "out" / RECORD).write_text("{")
    with pytest.raises(StoreMismatchError):
        export(store, tmp_path / "out")


def test_a_folder_of_something_else_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(UsageError, match="not empty"):
        export(store, tmp_path / "mine")
    with pytest.raises(UsageError, match="this machine"):
        export(store, Path("s3://bucket/views"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_folder_that_cannot_be_written(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="file"):
        export(store, tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("source", "asks"),
    [
        ({"kind": "shapenet", "path": "/x"}, True),
        ({"kind": "morphable", "path": "/x/model.h5"}, True),
        ({"kind": "morphable"}, False),
        ({"kind": "procedural"}, False),
        ({"kind": "nerf", "path": "/x"}, False),
    ],
)
def test_terms_are_asked_about_before_anything_is_written(
    tmp_path: Path, source: dict[str, Any], asks: bool
) -> None:
    store = Store(tmp_path / "root")
    header = PlanHeader(n_objects=1, n_views=2, height=8, width=8, objects_per_views_shard=1, source=source)
    ViewsStore.create_or_open(store, write_plan(store, header, [PlanRow(0, "a", "car", "s", "0", "f")]))
    if asks:
        with pytest.raises(UsageError, match="--accept-terms"):
            export(store, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    result = export(store, tmp_path / "out", accept_terms=asks)
    assert result.unavailable == {"a": "shard not done"}


def test_planning_an_export_again_measures_it(store: Store, tmp_path: Path) -> None:
    export(store, tmp_path / "out")
    config, entries = planned(load_config({"source": {"kind": "nerf", "path": str(tmp_path / "out")}}))
    assert (config.render.views, config.render.width, len(entries)) == (N_VIEWS, SIZE_PX, 9)
