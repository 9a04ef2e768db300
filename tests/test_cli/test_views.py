"""Views out and in again through the command line, and learning from imported ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage.store import Store
from storage.views import ViewsStore
from tests.conftest import TINY, fpipe

LOCAL = ("--executor", "local")


@pytest.fixture(scope="module")
def exported(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    done = fpipe("export", tiny_dataset, "--to", "nerfstudio", "--out", out, "--json")
    assert done.code == 0, done.err
    assert done.json()["written"] == 8
    return out


def test_rendered_views_come_back_bit_by_bit(tiny_dataset: Path, exported: Path, tmp_path: Path) -> None:
    root = tmp_path / "again"
    done = fpipe("render", root, *LOCAL, "--source", "nerf", "--path", exported, "--json")
    assert done.code == 0, done.err
    assert done.json()["objects_ok"] == 8
    first, second = ViewsStore.open(Store(tiny_dataset)), ViewsStore.open(Store(root))
    assert {row.object_id for row in first.plan.rows} == {row.object_id for row in second.plan.rows}
    for row in first.plan.rows:
        one, other = first.read(row.row), second.read(second.plan.row_of(row.object_id))
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.heldout, other.heldout)
        for name in ("cam2world", "intrinsics", "mesh_to_world"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def authors_layout(exported: Path, root: Path) -> None:
    """The exported cars and sofas as the Fused-Planes authors write them: OpenCV cameras, no alpha."""
    categories: dict[str, list[str]] = {}
    for file in sorted(exported.glob("*/*/transforms.json")):
        values, folder = json.loads(file.read_text()), root / "renders" / file.parent.name
        (folder / "rgb").mkdir(parents=True)
        categories.setdefault(file.parent.parent.name, []).append(folder.name)
        frames = []
        for i, frame in enumerate(values["frames"]):
            rgba = Image.open(file.parent / frame["file_path"])
            white = Image.new("RGBA", rgba.size, "white")
            Image.alpha_composite(white, rgba).convert("RGB").save(folder / f"rgb/{i}.png")
            matrix = np.array(frame["transform_matrix"]) @ np.diag([1, -1, -1, 1])
            lens = {key: values[key] for key in ("fl_x", "fl_y", "cx", "cy", "w", "h")}
            frames.append({"file_path": f"rgb/{i}.png", "transform_matrix": matrix.tolist(), **lens})
        (folder / "transforms_opencv.json").write_text(json.dumps({"frames": frames}))
    (root / "dataset_map.json").write_text(json.dumps(categories))


@pytest.fixture(scope="module")
def without_alpha(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cars and sofas imported from the authors' layout; an image of the first sofa is missing."""
    folder = tmp_path_factory.mktemp("authors")
    authors_layout(exported, folder / "set")
    broken = min((folder / "set" / "renders").glob("sofa*"))
    (broken / "rgb" / "3.png").unlink()
    source = ("--source", "fused-planes", "--path", folder / "set", "--classes", "car,sofa")
    done = fpipe("render", folder / "root", *LOCAL, *source, "--json")
    assert done.code == 42, done.err
    assert (done.json()["objects_ok"], done.json()["objects_failed"]) == (3, 1)
    return folder / "root"


def test_an_object_with_a_missing_image_is_recorded(without_alpha: Path) -> None:
    [failure] = fpipe("status", without_alpha, "--json").json()["stages"]["render"]["failures"]
    assert failure["object_id"].startswith("sofa-")
    assert failure["kind"] == "missing_image"
    assert "rgb/3.png" in failure["reason"]
    views = ViewsStore.open(Store(without_alpha))
    assert [views.read(row).has_alpha for row in range(2)] == [False, False]


@pytest.mark.slow
def test_objects_are_fitted_to_views_without_alpha(without_alpha: Path) -> None:
    for command in (("train-shared", without_alpha, "--preset", TINY), ("fit-objects", without_alpha)):
        done = fpipe(*command, *LOCAL)
        assert done.code in (0, 42), done.err
    found = fpipe("evaluate", without_alpha, "--json").json()
    assert found["all"]["objects"] == 3
    assert np.isfinite(found["all"]["psnr_db"]["mean"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--source", "nerf"), "--path"),
        (("--source", "nerf", "--path", "/no/such/folder"), "/no/such/folder"),
        (("--classes", "car:1", "--cameras", "/no/such/file.json"), "/no/such/file.json"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = fpipe("render", tmp_path / "root", *LOCAL, *arguments)
    assert done.code in (2, 4)
    assert said in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "root").exists()
