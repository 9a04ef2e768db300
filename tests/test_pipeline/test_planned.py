"""What the input of a dataset decides: sizes of views that exist, and a file of cameras."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cli.options import resolve_config
from pipeline.config import PipelineConfig
from pipeline.planned import planned, stored_config
from pipeline.render_stage import make_plan
from render_jobs.poses import hashed_name, stored_key
from storage import layout
from storage.errors import ConfigError, StoreMismatchError, UsageError
from storage.plan import Plan
from storage.store import Store
from tests.test_render_jobs.test_poses import camera_file
from tests.test_render_jobs.view_files import picture, save, write_nerfstudio


def resolved(
    store: Store, overrides: dict[str, Any], preset: str | None = None, *settings: str
) -> PipelineConfig:
    return resolve_config(store, preset, settings, overrides)


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def nerf(tmp_path: Path) -> dict[str, Any]:
    for name, n in (("a", 5), ("b", 5), ("c", 3)):
        write_nerfstudio(tmp_path / "in" / name, n)
    return {"source.kind": "nerf", "source.path": str(tmp_path / "in")}


def test_the_data_decides_number_and_size_of_views(tmp_path: Path, nerf: dict[str, Any]) -> None:
    store = Store(tmp_path / "root")
    for preset in (None, "demo"):
        config, entries = planned(resolved(store, {**nerf, "source.classes": {}}, preset))
        assert (config.render.views, config.render.width, config.render.height) == (5, 16, 16)
        assert [entry.object_id for entry in entries] == ["object-a", "object-b", "object-c"]


def test_what_somebody_gave_stays(tmp_path: Path, nerf: dict[str, Any]) -> None:
    store = Store(tmp_path / "root")
    config, _ = planned(resolved(store, {**nerf, "render.views": 3}))
    assert (config.render.views, config.render.width) == (3, 16)
    config, _ = planned(resolved(store, nerf, None, "render.width=8", "render.height=8"))
    assert (config.render.views, config.render.width, config.render.height) == (5, 8, 8)
    mine = tmp_path / "mine.yaml"
    mine.write_text("render: {views: 4}\n")
    assert planned(resolved(store, nerf, str(mine)))[0].render.views == 4


def test_the_plan_holds_the_real_numbers_and_is_found_again(tmp_path: Path, nerf: dict[str, Any]) -> None:
    store = Store(tmp_path / "root")
    plan = make_plan(store, resolved(store, nerf), 1)
    assert (plan.header.n_views, plan.header.height, plan.header.width) == (5, 16, 16)
    assert plan.header.render_config["views"] == 5
    stored = stored_config(store)
    assert stored is not None
    assert (stored["render"]["views"], stored["render"]["width"]) == (5, 16)
    before = files_of(tmp_path / "root")
    for again in (resolved(store, {}), resolved(store, nerf), resolved(store, nerf, "default")):
        assert make_plan(store, again, 1).plan_hash == plan.plan_hash
    assert files_of(tmp_path / "root") == before


def test_the_plan_stays_whatever_becomes_of_its_source(tmp_path: Path, nerf: dict[str, Any]) -> None:
    store = Store(tmp_path / "root")
    plan = make_plan(store, resolved(store, nerf), 1)
    before = files_of(tmp_path / "root")
    said: list[str] = []
    write_nerfstudio(tmp_path / "in" / "d", 5)
    assert make_plan(store, resolved(store, {}), 1, said.append).plan_hash == plan.plan_hash
    shutil.rmtree(tmp_path / "in" / "a")
    assert make_plan(store, resolved(store, nerf), 1, said.append).plan_hash == plan.plan_hash
    shutil.rmtree(tmp_path / "in")
    assert make_plan(store, resolved(store, nerf), 1, said.append).plan_hash == plan.plan_hash
    assert files_of(tmp_path / "root") == before
    assert len(said) == 3
    assert f"the plan of {plan.header.created} with 3 objects is used" in said[0]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"source.path": "/elsewhere"}, r"source\.path: .*/in' \(existing\) -> '/elsewhere'"),
        ({"source.classes": {"object": 2}}, r"source\.classes: 'all' \(existing\) -> 'object:2'"),
        ({"source.seed": 1}, r"source\.seed"),
        ({"render.views": 4}, r"render\.views: 5 \(existing\) -> 4"),
        ({"render.heldout_fraction": 0.5}, r"render\.heldout_fraction"),
    ],
)
def test_what_differs_from_the_plan_is_named(
    tmp_path: Path, nerf: dict[str, Any], change: dict[str, Any], named: str
) -> None:
    store = Store(tmp_path / "root")
    make_plan(store, resolved(store, nerf), 1)
    before = files_of(tmp_path / "root")
    with pytest.raises(StoreMismatchError, match=named):
        make_plan(store, resolved(store, {**nerf, **change}), 1)
    assert files_of(tmp_path / "root") == before


def test_synsets_and_their_names_are_the_same_classes_and_their_order_counts(
    tmp_path: Path, cars: dict[str, Any]
) -> None:
    store = Store(tmp_path / "root")
    cars["source.classes"] = {"car": 2, "sofa": 1}
    plan = planned_cars(store, cars)
    config = resolved(store, cars)
    named = config.source.model_copy(update={"classes": {"02958343": 2, "sofa": 1}})
    again = make_plan(store, config.model_copy(update={"source": named}), 1)
    assert again.plan_hash == plan.plan_hash
    with pytest.raises(StoreMismatchError, match=r"'car:2,sofa:1' .existing. -> 'sofa:1,car:2'"):
        planned_cars(store, {**cars, "source.classes": {"sofa": 1, "car": 2}})


def test_killed_while_it_plans_nothing_or_everything_is_remembered(
    tmp_path: Path, nerf: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "root")
    real = Store.create

    def killed_before_the_header(self: Store, key: str, data: bytes) -> bool:
        if key == layout.PLAN_HEADER:
            raise KeyboardInterrupt
        return real(self, key, data)

    monkeypatch.setattr(Store, "create", killed_before_the_header)
    with pytest.raises(KeyboardInterrupt):
        make_plan(store, resolved(store, {**nerf, "render.views": 3}), 1)
    monkeypatch.undo()
    assert stored_config(store) is None

    def killed_after_the_header(self: Store, key: str, data: bytes) -> bool:
        created = real(self, key, data)
        if key == layout.PLAN_HEADER:
            raise KeyboardInterrupt
        return created

    assert make_plan(store, resolved(store, nerf), 1).header.n_views == 5, "other views than the killed one"
    stored = stored_config(store)
    assert stored is not None
    assert stored["render"]["views"] == 5
    other = Store(tmp_path / "other")
    monkeypatch.setattr(Store, "create", killed_after_the_header)
    with pytest.raises(KeyboardInterrupt):
        make_plan(other, resolved(other, nerf), 1)
    monkeypatch.undo()
    assert make_plan(other, resolved(other, {}), 1).header.source["kind"] == "nerf"


@pytest.mark.parametrize(
    ("size", "said"),
    [((17, 17), "--resolution 16"), ((20, 10), "render.width=16 --set render.height=8"), ((13, 7), "crop")],
)
def test_sizes_that_the_autoencoder_cannot_take(tmp_path: Path, size: tuple[int, int], said: str) -> None:
    write_nerfstudio(tmp_path / "in", 2, w=size[0], h=size[1])
    for i in range(2):
        save(tmp_path / f"in/images/{i}.png", picture(i, size))
    given = {"source.kind": "nerf", "source.path": str(tmp_path / "in")}
    with pytest.raises(ConfigError, match=said):
        planned(resolved(Store(tmp_path / "root"), given))


def test_settings_of_the_renderer_do_not_go_with_views_that_exist(
    tmp_path: Path, nerf: dict[str, Any]
) -> None:
    for name, value in (("poses", "sphere"), ("samples", 3), ("shading", "diffuse"), ("shared_rig", True)):
        with pytest.raises(ConfigError, match=f"render.{name}"):
            resolved(Store(tmp_path / "root"), {**nerf, f"render.{name}": value})


@pytest.fixture
def cars(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "rig.json").write_bytes(camera_file())
    return {
        "source.kind": "procedural",
        "source.classes": {"car": 2},
        "render.cameras": str(tmp_path / "rig.json"),
    }


def planned_cars(store: Store, cars: dict[str, Any]) -> Plan:
    return make_plan(store, resolved(store, cars), 1)


def test_a_camera_file_is_kept_in_the_dataset_under_its_hash(tmp_path: Path, cars: dict[str, Any]) -> None:
    store = Store(tmp_path / "root")
    plan = planned_cars(store, cars)
    assert plan.header.n_views == 4
    assert plan.header.render_config["cameras"] == hashed_name(camera_file())
    assert store.read(stored_key(hashed_name(camera_file()))) == camera_file()
    (tmp_path / "rig.json").unlink()
    again = make_plan(store, resolved(store, {}), 1)
    assert again.plan_hash == plan.plan_hash


def test_another_camera_file_is_another_dataset(tmp_path: Path, cars: dict[str, Any]) -> None:
    store = Store(tmp_path / "root")
    planned_cars(store, cars)
    before = files_of(tmp_path / "root")
    (tmp_path / "rig.json").write_bytes(camera_file(cx=31.0))
    with pytest.raises(StoreMismatchError, match=r"render\.cameras"):
        planned_cars(store, cars)
    assert files_of(tmp_path / "root") == before


def test_camera_files_that_cannot_be_used(tmp_path: Path, cars: dict[str, Any]) -> None:
    store = Store(tmp_path / "root")
    with pytest.raises(ConfigError, match="leave out --views"):
        planned(resolved(store, {**cars, "render.views": 7}))
    with pytest.raises(ConfigError, match="another shape"):
        planned(resolved(store, {**cars, "render.width": 64, "render.height": 32}))
    frames = json.loads(camera_file())["frames"]
    frames[1]["transform_matrix"][0][3] = "far"
    (tmp_path / "rig.json").write_bytes(camera_file(frames=frames))
    with pytest.raises(ConfigError, match=r"rig\.json: frame 1"):
        planned(resolved(store, cars))
    with pytest.raises(UsageError, match="no file"):
        planned(resolved(store, {**cars, "render.cameras": str(tmp_path)}))
    with pytest.raises(UsageError, match=r"none\.json"):
        planned(resolved(store, {**cars, "render.cameras": "memory://none.json"}))
    assert not (tmp_path / "root").exists()
