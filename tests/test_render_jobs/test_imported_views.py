"""Views that exist: three layouts, what goes wrong with files of others, and the map into our world."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from render_jobs.config import RenderConfig
from render_jobs.sources.base import ObjectEntry, SourceSpec, ViewsSource, make_source
from render_jobs.sources.views.world import SEEN_RADIUS_WORLD
from render_jobs.worker import RenderFailure
from storage.errors import ConfigError, EnvironmentProblem, UsageError
from storage.records import ObjectViews
from tests.test_render_jobs.view_files import (
    ANGLE_RAD,
    SIZE_PX,
    cameras,
    picture,
    png_bomb,
    save,
    write_fused_planes,
    write_json,
    write_nerf_synthetic,
    write_nerfstudio,
)

CATEGORIES = {"cars": ["c1", "c0"], "faces": ["f0"]}


def source_of(kind: str, path: Path | str, **spec: Any) -> ViewsSource:
    source = make_source({"kind": kind, "path": str(path), **spec})
    assert isinstance(source, ViewsSource)
    return source


def config_of(views: int, size: int = SIZE_PX, **values: Any) -> RenderConfig:
    return RenderConfig(views=views, width=size, height=size, **values)


def load(kind: str, path: Path, config: RenderConfig, **spec: Any) -> tuple[ObjectViews, dict[str, Any]]:
    """The views of the first object."""
    source = source_of(kind, path, **spec)
    return source.load(source.list({}, 0)[0], config)


def failure_of(kind: str, path: Path, config: RenderConfig) -> tuple[str, str]:
    with pytest.raises(RenderFailure) as caught:
        load(kind, path, config)
    return caught.value.failure.kind, caught.value.failure.reason


def test_the_authors_layout(tmp_path: Path) -> None:
    write_fused_planes(tmp_path / "set", CATEGORIES)
    for path in (tmp_path / "set", tmp_path / "set" / "small"):
        source = source_of("fused-planes", path)
        entries = source.list({}, 0)
        assert [(e.object_id, e.class_name) for e in entries] == [
            ("cars-c1", "cars"),
            ("cars-c0", "cars"),
            ("faces-f0", "faces"),
        ]
        assert source.measure(entries) == (5, SIZE_PX, SIZE_PX)
        views, info = source.load(entries[1], config_of(5))
        np.testing.assert_array_equal(views.cam2world, cameras(5, 1))
        np.testing.assert_array_equal(views.intrinsics[3], [[17, 0, 8], [0, 17, 8.5], [0, 0, 1]])
        np.testing.assert_array_equal(views.images[2, ..., :3], picture(2)[..., :3])
        assert (views.images[..., 3] == 255).all()
        assert not views.has_alpha
        assert views.heldout.sum() == 1
        np.testing.assert_array_equal(views.mesh_to_world, np.eye(4))
        assert info["warnings"] == []


def test_classes_and_numbers_of_the_authors_layout(tmp_path: Path) -> None:
    write_fused_planes(tmp_path, {"cars": [f"c{i}" for i in range(6)], "faces": ["f0"]}, n=2)
    source = source_of("fused-planes", tmp_path)
    assert [e.object_id for e in source.list({"faces": None}, 0)] == ["faces-f0"]
    chosen = [e.object_id for e in source.list({"cars": 3}, 0)]
    assert chosen == sorted(chosen)
    assert chosen == [e.object_id for e in source.list({"cars": 3}, 0)]
    assert len({tuple(e.object_id for e in source.list({"cars": 3}, seed)) for seed in range(20)}) > 3
    for classes, message in (({"dogs": 1}, "cars, faces"), ({"cars": 7}, "7 of class cars")):
        with pytest.raises(UsageError, match=message):
            source.list(classes, 0)


def test_several_subsets_are_the_users_choice(tmp_path: Path) -> None:
    for subset in ("small", "large"):
        write_fused_planes(tmp_path, CATEGORIES, n=2, subset=subset)
    with pytest.raises(UsageError, match=f"--path {tmp_path}/small"):
        source_of("fused-planes", tmp_path).list({}, 0)
    assert len(source_of("fused-planes", tmp_path / "large").list({}, 0)) == 3


@pytest.mark.parametrize("text", ["[]", "{", '{"cars": "c0"}', '{"cars": ["../c0"]}', '{"cars": ["none"]}'])
def test_maps_that_are_none(tmp_path: Path, text: str) -> None:
    write_fused_planes(tmp_path, CATEGORIES, n=2)
    (tmp_path / "dataset_map.json").write_text(text)
    with pytest.raises(UsageError, match=r"dataset_map\.json"):
        source_of("fused-planes", tmp_path).list({}, 0)


def test_an_object_of_the_map_without_a_folder_is_listed_and_fails(tmp_path: Path) -> None:
    write_fused_planes(tmp_path, {"cars": ["c0"]}, n=2)
    (tmp_path / "dataset_map.json").write_text('{"cars": ["gone", "c0"]}')
    assert [e.object_id for e in source_of("fused-planes", tmp_path).list({}, 0)] == ["cars-gone", "cars-c0"]
    assert failure_of("fused-planes", tmp_path, config_of(2))[0] == "missing_file"


def test_nerf_synthetic(tmp_path: Path) -> None:
    write_nerf_synthetic(tmp_path / "lego", {"train": 6, "val": 3, "test": 2})
    source = source_of("nerf", tmp_path, normalize="none")
    entries = source.list({}, 0)
    assert [(e.object_id, e.class_name, e.location) for e in entries] == [("object-lego", "object", "lego")]
    assert source.measure(entries) == (8, SIZE_PX, SIZE_PX)
    views, _ = source.load(entries[0], config_of(8))
    np.testing.assert_array_equal(views.heldout, [False] * 6 + [True] * 2)
    np.testing.assert_array_equal(views.cam2world[:6], cameras(6, 0, 4.0))
    np.testing.assert_array_equal(views.cam2world[6:], cameras(2, 2, 4.0))
    np.testing.assert_array_equal(views.images[7], picture(201))
    assert views.has_alpha
    # tan(0.4) = 0.42279: f = 8 / 0.42279 = 18.9217 px.
    np.testing.assert_allclose(views.intrinsics[0], [[18.9217, 0, 8], [0, 18.9217, 8], [0, 0, 1]], rtol=1e-5)


def test_one_object_alone_and_objects_in_classes(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path / "set" / "car" / "car-7")
    write_nerfstudio(tmp_path / "set" / "sofa" / "7")
    (tmp_path / "set" / "notes").mkdir()
    ids = [(e.object_id, e.class_name) for e in source_of("nerf", tmp_path / "set").list({}, 0)]
    assert ids == [("car-7", "car"), ("sofa-7", "sofa")]
    [alone] = source_of("nerf", tmp_path / "set" / "sofa" / "7").list({}, 0)
    assert (alone.object_id, alone.location) == ("object-7", ".")
    with pytest.raises(UsageError, match=r"no transforms\.json"):
        source_of("nerf", tmp_path / "set" / "notes").list({}, 0)
    with pytest.raises(UsageError, match="not a folder"):
        source_of("nerf", tmp_path / "nothing").list({}, 0)


def test_links_to_objects_are_followed(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path / "elsewhere")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "x").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "gone").symlink_to(tmp_path / "nothing")
    assert load("nerf", tmp_path / "set", config_of(5))[0].images.shape == (5, SIZE_PX, SIZE_PX, 4)


def test_names_in_other_scripts_and_encodings(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path / "set" / "größe 椅")
    write_nerfstudio(tmp_path / "x")
    os.rename(tmp_path / "x", os.fsencode(tmp_path / "set") + b"/gr\xf6\xdfe")  # noqa: PTH104 bytes
    source = source_of("nerf", tmp_path / "set")
    first, second = source.list({}, 0)
    json.dumps([first.object_id, first.location, second.location], ensure_ascii=False).encode()
    assert {first.object_id.partition("größe")[0], second.object_id.partition("größe")[0]} == {"object-"}
    for entry in (first, second):
        assert source.load(entry, config_of(5))[0].images.shape[0] == 5


def test_val_is_held_out_where_there_is_no_test(tmp_path: Path) -> None:
    write_nerf_synthetic(tmp_path, {"train": 6, "val": 2})
    views, _ = load("nerf", tmp_path, config_of(8))
    np.testing.assert_array_equal(views.heldout, [False] * 6 + [True] * 2)


def test_without_a_split_a_seeded_part_is_held_out(tmp_path: Path) -> None:
    write_nerf_synthetic(tmp_path, {"train": 20})
    views, _ = load("nerf", tmp_path, config_of(20))
    assert views.heldout.sum() == 2
    again, _ = load("nerf", tmp_path, config_of(20))
    np.testing.assert_array_equal(views.heldout, again.heldout)
    other, _ = load("nerf", tmp_path, config_of(20, seed=5))
    assert (other.heldout != views.heldout).any()


def test_fewer_views_than_there_are_keep_the_proportion(tmp_path: Path) -> None:
    write_nerf_synthetic(tmp_path, {"train": 9, "test": 3})
    views, info = load("nerf", tmp_path, config_of(8))
    np.testing.assert_array_equal(views.heldout, [False] * 6 + [True] * 2)
    np.testing.assert_array_equal(views.images[[0, 5, 6]], [picture(0), picture(5), picture(100)])
    assert info["warnings"] == ["12 views, 8 taken"]
    assert load("nerf", tmp_path, config_of(2))[0].heldout.tolist() == [False, True]


def test_measuring_takes_the_most_common_number(tmp_path: Path) -> None:
    for name, n in (("a", 3), ("b", 5), ("c", 5), ("d", 7)):
        write_nerfstudio(tmp_path / name, n)
    source = source_of("nerf", tmp_path)
    assert source.measure(source.list({}, 0)).n_views == 5
    (tmp_path / "c" / "transforms.json").write_text("{")
    assert source.measure(source_of("nerf", tmp_path).list({}, 0)).n_views == 5
    source = source_of("nerf", tmp_path)
    entries = source.list({}, 0)
    assert source.measure(entries).n_views == 3, "of equally common numbers the one that most objects have"
    kinds = []
    for entry in entries:
        try:
            source.load(entry, config_of(5))
        except RenderFailure as error:
            kinds.append(error.failure.kind)
    assert kinds == ["too_few_views", "bad_cameras"]


def test_without_any_readable_object_there_is_no_size(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path / "a", k1=0.5)
    source = source_of("nerf", tmp_path)
    with pytest.raises(UsageError, match=r"k1 = 0\.5"):
        source.measure(source.list({}, 0))


def test_the_cameras_world_is_brought_into_ours(tmp_path: Path) -> None:
    write_nerf_synthetic(tmp_path, {"train": 12}, radius=4.0, shift=10.0)
    views, info = load("nerf", tmp_path, config_of(12))
    # All cameras look at (10, 0, 0) from 4 units and see a sphere of radius 4·sin(0.4) = 1.55767.
    scale = SEEN_RADIUS_WORLD / (4 * math.sin(ANGLE_RAD / 2))
    expected = np.diag([scale, scale, scale, 1])
    expected[0, 3] = -10 * scale
    np.testing.assert_allclose(views.mesh_to_world, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(views.cam2world[:, :3, 3], axis=1), 4 * scale, rtol=1e-5)
    rotation = views.cam2world[:, :3, :3]
    np.testing.assert_array_equal(rotation, cameras(12, 0, 4.0)[:, :3, :3])
    assert info["normalize"] == "cameras"


def test_our_own_cameras_see_the_sphere_that_the_normalisation_aims_at() -> None:
    # f = 1.02 widths: half the view is atan(0.5 / 1.02) = 26.112°, and 1.3 · sin(26.112°) = 0.5722.
    assert pytest.approx(0.5722, abs=1e-4) == SEEN_RADIUS_WORLD


def test_parallel_cameras_have_no_centre(tmp_path: Path) -> None:
    frames = []
    for i in range(3):
        matrix = np.eye(4)
        matrix[0, 3] = i
        save(tmp_path / f"{i}.png", picture(i))
        frames.append({"file_path": f"{i}.png", "transform_matrix": matrix.tolist()})
    write_json(tmp_path / "transforms.json", {"camera_angle_x": 1.0, "frames": frames})
    kind, reason = failure_of("nerf", tmp_path, config_of(3))
    assert kind == "bad_cameras"
    assert "source.normalize=none" in reason
    assert load("nerf", tmp_path, config_of(3), normalize="none")[0].cam2world[2, 0, 3] == 2


def test_an_exports_world_stays_as_it_is(tmp_path: Path) -> None:
    matrix = np.arange(16.0).reshape(4, 4).tolist()
    write_nerfstudio(tmp_path, mesh_to_world=matrix)
    views, info = load("nerf", tmp_path, config_of(5))
    np.testing.assert_array_equal(views.mesh_to_world, matrix)
    np.testing.assert_array_equal(views.cam2world, cameras(5))
    assert info["normalize"] == "none"
    forced, _ = load("nerf", tmp_path, config_of(5), normalize="cameras")
    assert (forced.mesh_to_world != views.mesh_to_world).any()


def test_images_and_intrinsics_are_resized_together(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path)
    views, info = load("nerf", tmp_path, config_of(5, size=8), normalize="none")
    whole, _ = load("nerf", tmp_path, config_of(5), normalize="none")
    np.testing.assert_array_equal(views.intrinsics[:, :2], whole.intrinsics[:, :2] / 2)
    rgba = picture(3).astype(float)
    alpha = rgba[..., 3:].reshape(8, 2, 8, 2, 1).mean(axis=(1, 3))
    colour = (rgba[..., :3] * rgba[..., 3:]).reshape(8, 2, 8, 2, 3).mean(axis=(1, 3)) / np.maximum(alpha, 1)
    np.testing.assert_allclose(views.images[3, ..., :3], colour, atol=0.51)
    np.testing.assert_allclose(views.images[3, ..., 3:], alpha, atol=0.51)
    assert info["warnings"] == ["5 of 5 images resized to 8×8 px"]


def test_smaller_copies_of_the_images_keep_the_field_of_view(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path)
    for i in range(5):
        save(tmp_path / f"images/{i}.png", picture(i, (8, 8)))
    views, _ = load("nerf", tmp_path, config_of(5, size=8))
    np.testing.assert_allclose(views.intrinsics[0, 0], [4 / math.tan(ANGLE_RAD / 2), 0, 4], rtol=1e-6)


def test_images_with_and_without_alpha_become_opaque(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path)
    save(tmp_path / "images/1.png", picture(1)[..., :3])
    views, info = load("nerf", tmp_path, config_of(5))
    assert not views.has_alpha
    assert (views.images[..., 3] == 255).all()
    clear = picture(0)[..., 3] == 0
    assert (views.images[0, clear] == 255).all(), "white where nothing is"
    np.testing.assert_array_equal(views.images[0, ~clear], picture(0)[~clear])
    assert "1 of 5 images have no alpha" in info["warnings"][0]


def test_any_fsspec_url(tmp_path: Path) -> None:
    write_fused_planes(tmp_path / "set", CATEGORIES)
    write_nerfstudio(tmp_path / "ns" / "car" / "a")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/views-test", recursive=True)
    try:
        for kind, name in (("fused-planes", "set"), ("fused-planes", "set/small"), ("nerf", "ns")):
            remote, local = source_of(kind, f"memory://views-test/{name}"), source_of(kind, tmp_path / name)
            entries = remote.list({}, 0)
            assert entries == local.list({}, 0)
            assert remote.measure(entries) == local.measure(local.list({}, 0))
            for entry in entries:
                here, there = local.load(entry, config_of(5))[0], remote.load(entry, config_of(5))[0]
                np.testing.assert_array_equal(here.images, there.images)
                np.testing.assert_array_equal(here.cam2world, there.cam2world)
    finally:
        memory.rm("/views-test", recursive=True)


def fingerprint(path: Path) -> str:
    entries: list[ObjectEntry] = source_of("nerf", path).list({}, 0)
    return entries[0].fingerprint


def test_a_fingerprint_changes_with_cameras_and_images_and_not_with_the_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_nerfstudio(tmp_path / name / "x")
    first = fingerprint(tmp_path / "a")
    assert fingerprint(tmp_path / "b") == first
    save(tmp_path / "a/x/images/2.png", picture(2)[:8])
    assert fingerprint(tmp_path / "a") != first
    values = json.loads((tmp_path / "b/x/transforms.json").read_text())
    write_json(tmp_path / "b/x/transforms.json", {**values, "fl_x": 20.0})
    assert fingerprint(tmp_path / "b") != first


def edit_frame(folder: Path, **changes: Any) -> None:
    values = json.loads((folder / "transforms.json").read_text())
    values["frames"][2].update(changes)
    write_json(folder / "transforms.json", values)


def remove_image(folder: Path) -> None:
    (folder / "images/2.png").unlink()


def truncate_image(folder: Path) -> None:
    path = folder / "images/2.png"
    path.write_bytes(path.read_bytes()[:-60])


def html_image(folder: Path) -> None:
    (folder / "images/2.png").write_text("<html>404</html>")


def empty_image(folder: Path) -> None:
    (folder / "images/2.png").write_bytes(b"")


def bomb(folder: Path) -> None:
    (folder / "images/2.png").write_bytes(png_bomb(60_000))


def fifo(folder: Path) -> None:
    remove_image(folder)
    os.mkfifo(folder / "images/2.png")


def directory(folder: Path) -> None:
    remove_image(folder)
    (folder / "images/2.png").mkdir()


def link_out(folder: Path) -> None:
    remove_image(folder)
    save(folder.parent / "secret.png", picture(2))
    (folder / "images/2.png").symlink_to(folder.parent / "secret.png")


def loop(folder: Path) -> None:
    remove_image(folder)
    (folder / "images/2.png").symlink_to("2.png")


def other_shape(folder: Path) -> None:
    save(folder / "images/2.png", picture(2, (16, 8)))


def write_transforms(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "transforms.json").write_text(text) and None


def linked_cameras(folder: Path) -> None:
    (folder / "transforms.json").rename(folder.parent / "elsewhere.json")
    (folder / "transforms.json").symlink_to(folder.parent / "elsewhere.json")


def cameras_fifo(folder: Path) -> None:
    (folder / "transforms.json").unlink()
    os.mkfifo(folder / "transforms.json")


BROKEN = [
    (remove_image, "missing_image", "images/2.png"),
    (directory, "missing_image", "images/2.png"),
    (fifo, "missing_image", "images/2.png"),
    (loop, "missing_image", "images/2.png"),
    (truncate_image, "bad_image", "images/2.png"),
    (html_image, "bad_image", "no PNG, JPEG or WebP"),
    (empty_image, "bad_image", "images/2.png"),
    (bomb, "bad_image", "pixels"),
    (cameras_fifo, "missing_file", "transforms.json"),
    (linked_cameras, "unsafe_reference", "transforms.json"),
    (link_out, "unsafe_reference", "link"),
    (lambda f: edit_frame(f, file_path="../secret.png"), "unsafe_reference", "secret.png"),
    (lambda f: edit_frame(f, file_path="/etc/passwd"), "unsafe_reference", "/etc/passwd"),
    (lambda f: edit_frame(f, file_path="C:\\x.png"), "unsafe_reference", "x.png"),
    (lambda f: edit_frame(f, file_path="http://x/y.png"), "unsafe_reference", "y.png"),
    (lambda f: edit_frame(f, file_path=""), "missing_image", "without file_path"),
    (lambda f: edit_frame(f, file_path="a" * 5000), "missing_image", "aaa"),
    (lambda f: edit_frame(f, w=17, h=99), "image_size", "17×99"),
    (other_shape, "image_size", "16×8"),
    (lambda f: edit_frame(f, transform_matrix=np.zeros((4, 4)).tolist()), "bad_cameras", "frame 2"),
    (lambda f: edit_frame(f, k2=1e-3), "bad_cameras", "k2"),
    (write_transforms("{"), "bad_cameras", "not valid JSON"),
    (write_transforms('{"frames": []}'), "bad_cameras", "no frames"),
]


@pytest.mark.parametrize(("breaks", "kind", "said"), BROKEN)
def test_what_is_broken_is_named(
    tmp_path: Path, breaks: Callable[[Path], None], kind: str, said: str
) -> None:
    folder = tmp_path / "set" / "x"
    write_nerfstudio(folder)
    breaks(folder)
    found, reason = failure_of("nerf", tmp_path / "set", config_of(5))
    assert found == kind
    assert said in reason
    assert "x" in reason


def test_every_view_held_out_is_a_failure(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path / "x", test_filenames=[f"images/{i}.png" for i in range(5)])
    assert failure_of("nerf", tmp_path, config_of(5))[0] == "bad_cameras"


def test_specifications(tmp_path: Path) -> None:
    for spec in (
        {"kind": "nerf"},
        {"kind": "fused-planes"},
        {"kind": "nerf", "path": "x", "normalize": "maybe"},
        {"kind": "shapenet", "path": "x", "normalize": "cameras"},
    ):
        with pytest.raises(ConfigError):
            make_source(spec)
    spec = SourceSpec(kind="nerf", path="s3://bucket/x")
    assert spec.model_dump(exclude_none=True) == {"kind": "nerf", "path": "s3://bucket/x"}


def test_a_folder_of_views_that_is_gone_is_not_a_missing_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_nerfstudio(tmp_path / "in" / name, 2)
    (tmp_path / "in/loop").symlink_to("loop")
    source = source_of("nerf", tmp_path / "in")
    first, _ = source.list({}, 0)
    (tmp_path / "in/a").rename(tmp_path / "a")
    with pytest.raises(RenderFailure, match="is in a"):
        source.load(first, config_of(2))
    (tmp_path / "in").rename(tmp_path / "moved")
    with pytest.raises(EnvironmentProblem, match="not there or empty"):
        source.load(first, config_of(2))
