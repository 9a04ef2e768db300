"""Morphable models: both files' layouts, what faces are made of, and files that mean harm."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
from scipy.io import savemat

from render_jobs.sources.base import make_source
from render_jobs.sources.morphable import (
    MorphableModel,
    MorphableSource,
    draw_coefficients,
    load_model,
    make_face,
    synthetic_model,
    write_scalismo,
)
from render_jobs.sources.morphable import source as source_module
from render_jobs.sources.morphable.ply import write_ply
from render_jobs.worker import BlenderWorker
from storage.errors import UsageError
from tests.test_render_jobs.meshes import cameras_at, render

LEVEL = 2


@pytest.fixture(scope="module")
def small() -> MorphableModel:
    return synthetic_model(LEVEL)


@pytest.fixture(scope="module")
def real_model() -> Path:
    path = os.environ.get("FPIPE_TEST_MORPHABLE")
    if not path:
        pytest.skip("set FPIPE_TEST_MORPHABLE to a model in scalismo's layout to run this test")
    return Path(path)


def assert_same_faces(one: MorphableModel, other: MorphableModel, atol: float) -> None:
    np.testing.assert_array_equal(one.cells, other.cells)
    for k in range(3):
        coefficients = draw_coefficients(one, 5, k)
        for a, b in zip(make_face(one, coefficients), make_face(other, coefficients), strict=True):
            np.testing.assert_allclose(a.astype(float), b.astype(float), atol=atol)


@pytest.mark.parametrize("version", [(0, 9), (0, 8)])
def test_both_versions_of_the_basis_give_the_faces_that_were_written(
    small: MorphableModel, tmp_path: Path, version: tuple[int, int]
) -> None:
    write_scalismo(small, tmp_path / "m.h5", version)
    assert_same_faces(load_model(str(tmp_path / "m.h5"), expression=True), small, atol=1.01)
    with h5py.File(tmp_path / "m.h5") as file:
        norms = np.linalg.norm(file["shape/model/pcaBasis"][()], axis=0)
        sigma = np.sqrt(file["shape/model/pcaVariance"][()])
        assert file["shape/representer/cells"].shape == (3, 20 * 4**LEVEL)
    np.testing.assert_allclose(norms, sigma if version == (0, 8) else 1.0, rtol=1e-4)


def test_a_face_is_mean_plus_sigma_times_basis_times_coefficient(tmp_path: Path) -> None:
    """By hand: vertex 0 at (1, 2, 3), basis (1, 0, 0), variance 4, coefficient 1.5: x = 1 + 1.5·2·1 = 4."""
    with h5py.File(tmp_path / "hand.h5", "w") as file:
        for part, mean in (("shape", [1, 2, 3, 0, 0, 0, 0, 5, 0]), ("color", [0.5] * 9)):
            file[f"{part}/model/mean"] = np.array(mean, dtype=np.float32)
            file[f"{part}/model/pcaBasis"] = np.eye(9, 1, dtype=np.float32)
            file[f"{part}/model/pcaVariance"] = np.array([4.0 if part == "shape" else 0.01])
        file["shape/representer/cells"] = np.array([[0], [1], [2]], dtype=np.uint32)
        file["version/majorVersion"], file["version/minorVersion"] = 0, 9
    model = load_model(str(tmp_path / "hand.h5"))
    vertices, colours = make_face(model, {"shape": np.array([1.5]), "color": np.array([2.0])})
    np.testing.assert_allclose(vertices, [[4, 2, 3], [0, 0, 0], [0, 5, 0]])
    assert colours.tolist() == [[178, 128, 128], [128] * 3, [128] * 3]  # 255·(0.5 + 2·0.1) = 178.5, to even


def mat_of(model: MorphableModel) -> dict[str, Any]:
    """The same model as BFM 2009 stores it: orthonormal basis, sigma apart, 0–255, 1-based and clockwise."""
    arrays: dict[str, Any] = {"tl": model.cells[:, [0, 2, 1]].astype(np.float64) + 1}
    for part, linear, scale in (("shape", model.shape, 1.0), ("tex", model.color, 255.0)):
        sigma = np.linalg.norm(linear.directions, axis=0)
        arrays[f"{part}MU"] = (linear.mean * scale)[:, None]
        arrays[f"{part}PC"] = linear.directions / sigma
        arrays[f"{part}EV"] = (sigma * scale)[:, None]
    return arrays


def test_bfm_2009_gives_the_same_faces(small: MorphableModel, tmp_path: Path) -> None:
    savemat(tmp_path / "01_MorphableModel.mat", mat_of(small))
    model = load_model(str(tmp_path / "01_MorphableModel.mat"), components=5)
    assert model.shape.directions.shape == (small.shape.mean.size, 5)
    parts = MorphableModel(small.shape.first(5), small.color.first(5), None, small.cells, "")
    assert_same_faces(model, parts, atol=1.01)
    with pytest.raises(UsageError, match="no expressions"):
        load_model(str(tmp_path / "01_MorphableModel.mat"), expression=True)


def test_object_k_of_a_seed_is_always_the_same(small: MorphableModel) -> None:
    one = draw_coefficients(small, 3, 7)
    assert {name: numbers.tolist() for name, numbers in one.items()} == {
        name: numbers.tolist() for name, numbers in draw_coefficients(small, 3, 7).items()
    }
    fewer = MorphableModel(small.shape.first(4), small.color.first(4), None, small.cells, "")
    np.testing.assert_array_equal(draw_coefficients(fewer, 3, 7)["shape"], one["shape"][:4])
    assert not np.allclose(one["shape"], draw_coefficients(small, 4, 7)["shape"])
    assert not np.allclose(one["shape"], draw_coefficients(small, 3, 8)["shape"])
    assert not np.allclose(one["shape"][:5], one["color"][:5]), "parts draw apart"
    np.testing.assert_allclose(draw_coefficients(small, 3, 7, 0.5)["shape"], one["shape"] / 2, atol=1e-6)
    drawn = np.concatenate([draw_coefficients(small, 0, k)["shape"] for k in range(400)])
    assert abs(drawn.mean()) < 0.03
    assert abs(drawn.std() - 1.0) < 0.03


def test_the_source_writes_faces_and_says_their_coefficients(tmp_path: Path) -> None:
    source = make_source({"kind": "morphable", "coefficient_sigma": 0.5, "components": 6, "expression": True})
    entries = source.list({"face": 3}, 11)
    assert [e.object_id for e in entries] == ["face-000000", "face-000001", "face-000002"]
    assert entries[:2] == source.list({"face": 2}, 11), "a larger dataset begins with the smaller one"
    assert len({e.fingerprint for e in entries + source.list({"face": 3}, 12)}) == 6
    other = make_source({"kind": "morphable", "components": 7})
    assert other.list({"face": 1}, 11)[0].fingerprint != entries[0].fingerprint
    mesh = source.fetch(entries[2], tmp_path)
    assert (mesh.up, mesh.front, mesh.root) == ("y", "z", tmp_path)
    assert isinstance(source, MorphableSource)
    recorded = mesh.info["coefficients"]
    assert {name: len(numbers) for name, numbers in recorded.items()} == {
        "shape": 6, "color": 6, "expression": 5
    }  # fmt: skip
    again = source.coefficients_of(entries[2])
    assert {name: numbers.tolist() for name, numbers in again.items()} == recorded
    content = mesh.path.read_bytes()
    assert content.startswith(b"ply\nformat binary_little_endian 1.0\n")
    header, _, body = content.partition(b"end_header\n")
    n = 10 * 4**5 + 2
    assert f"element vertex {n}\n".encode() in header
    assert len(body) == 15 * n + 13 * 2 * (n - 2)
    vertices, colours = make_face(source._model(), again)
    points = np.frombuffer(body, dtype=[("position", "<f4", 3), ("colour", "u1", 3)], count=n)
    np.testing.assert_array_equal(points["position"], vertices)
    np.testing.assert_array_equal(points["colour"], colours)


def test_models_come_from_afar_and_are_read_once(
    small: MorphableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scalismo(small, tmp_path / "m.h5")
    fsspec.filesystem("memory").put(str(tmp_path / "m.h5"), "/models/m.h5")
    near, far = MorphableSource(str(tmp_path / "m.h5")), MorphableSource("memory://models/m.h5")
    assert near.list({"face": 2}, 0) == far.list({"face": 2}, 0)
    monkeypatch.setattr(source_module, "_read", lambda path: pytest.fail("read again"))
    far.fetch(far.list({"face": 2}, 0)[1], tmp_path)


@pytest.mark.parametrize("classes", [{}, {"car": 3}, {"face": None}, {"face": 2, "car": 1}])
def test_only_faces_and_only_with_a_number(classes: dict[str, int | None]) -> None:
    with pytest.raises(UsageError, match="face:1000"):
        MorphableSource().list(classes, 0)


def test_the_synthetic_head_is_a_closed_surface_with_orthogonal_components(small: MorphableModel) -> None:
    edges = np.sort(np.concatenate([small.cells[:, [i, (i + 1) % 3]] for i in range(3)]), axis=1)
    unique, count = np.unique(edges, axis=0, return_counts=True)
    assert (count == 2).all()
    assert small.n_vertices - len(unique) + len(small.cells) == 2, "Euler: a sphere"
    a, b, c = (small.shape.mean.reshape(-1, 3)[small.cells[:, i]].astype(float) for i in range(3))
    assert np.einsum("ij,ij->", a, np.cross(b, c)) > 0, "faces look outwards"
    for part in small.parts().values():
        gram = part.directions.astype(float).T @ part.directions
        scale = np.sqrt(np.outer(gram.diagonal(), gram.diagonal()))
        assert np.abs(gram / scale - np.eye(len(gram))).max() < 1e-3
        assert (np.diff(gram.diagonal()) <= 0).all()
    vertices, colours = small.shape.mean.reshape(-1, 3), small.color.mean.reshape(-1, 3)
    nose = vertices[vertices[:, 2].argmax()]
    assert abs(nose[0]) < 12, "the foremost point is the nose or the lips, in the middle"
    np.testing.assert_allclose(sorted(vertices[:, 0]), sorted(-vertices[:, 0]), atol=1.5)
    top, face = colours[vertices[:, 1] > 95], colours[(vertices[:, 2] > 60) & (np.abs(vertices[:, 1]) < 20)]
    assert top.mean() < 0.35 < face.mean(), "dark hair, light skin"


Harm = Callable[[h5py.File, Path], None]


def _move(file: h5py.File, name: str) -> Any:
    data = file[name][()]
    del file[name]
    return data


def _external_link(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "secret.h5", "w") as secret:
        secret["mean"] = _move(file, "shape/model/mean")
    file["shape/model/mean"] = h5py.ExternalLink(str(folder / "secret.h5"), "mean")


def _external_group(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "secret.h5", "w") as secret:
        file.copy("color", secret)
    del file["color"]
    file["color"] = h5py.ExternalLink(str(folder / "secret.h5"), "color")


def _soft_link(file: h5py.File, folder: Path) -> None:
    file["elsewhere"] = _move(file, "shape/model/mean")
    file["shape/model/mean"] = h5py.SoftLink("/elsewhere")


def _external_storage(file: h5py.File, folder: Path) -> None:
    data = _move(file, "shape/model/mean")
    (folder / "raw").write_bytes(data.tobytes())
    file.create_dataset(
        "shape/model/mean", data.shape, data.dtype, external=[(str(folder / "raw"), 0, data.nbytes)]
    )


def _virtual(file: h5py.File, folder: Path) -> None:
    data = _move(file, "shape/model/mean")
    with h5py.File(folder / "secret.h5", "w") as secret:
        secret["mean"] = data
    layout = h5py.VirtualLayout(data.shape, data.dtype)
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "mean", data.shape)
    file.create_virtual_dataset("shape/model/mean", layout)


def _missing(file: h5py.File, folder: Path) -> None:
    del file["color/model"]


def _nan(file: h5py.File, folder: Path) -> None:
    file["shape/model/pcaBasis"][3, 1] = np.nan


def _transposed(file: h5py.File, folder: Path) -> None:
    file["shape/model/pcaBasis"] = _move(file, "shape/model/pcaBasis").T


def _other_size(file: h5py.File, folder: Path) -> None:
    file["color/model/mean"] = _move(file, "color/model/mean")[:-3]


def _cells_beyond(file: h5py.File, folder: Path) -> None:
    file["shape/representer/cells"][0, 0] = 10**6


def _version(file: h5py.File, folder: Path) -> None:
    file["shape/version/minorVersion"][()] = 7


def _no_version(file: h5py.File, folder: Path) -> None:
    del file["shape/version"]


def _text(file: h5py.File, folder: Path) -> None:
    del file["shape/model/mean"]
    file["shape/model/mean"] = "hello"


def _group(file: h5py.File, folder: Path) -> None:
    del file["shape/model/mean"]
    file.create_group("shape/model/mean")


def _huge(file: h5py.File, folder: Path) -> None:
    del file["shape/model/mean"]
    file.create_dataset("shape/model/mean", (1 << 40,), "f4", chunks=(1024,), compression="gzip")


def _negative_variance(file: h5py.File, folder: Path) -> None:
    file["shape/model/pcaVariance"][0] = -1.0


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_external_link, r"shape/model/mean is reached through a link \(\w+, ExternalLink"),
        (_external_group, r"color/model/mean is reached through a link \(\w+, ExternalLink"),
        (_soft_link, r"shape/model/mean is reached through a link \(mean, SoftLink"),
        (_external_storage, "shape/model/mean keeps its data in other files"),
        (_virtual, "shape/model/mean keeps its data in other files"),
        (_missing, "color/model/mean is missing"),
        (_nan, "shape/model/pcaBasis holds numbers that are not finite"),
        (_transposed, r"shape/model/pcaBasis has shape \[28, 486\], expected \[486, 28\]"),
        (_other_size, r"color/model/mean has shape \[483\], expected \[486\]"),
        (_cells_beyond, "shape/representer/cells names vertices 0 to 1000000, but the model has 162"),
        (_version, "shape/version is 0.7"),
        (_no_version, "version/majorVersion is missing"),
        (_text, "shape/model/mean holds object, expected numbers"),
        (_group, "shape/model/mean is a group"),
        (_huge, "shape/model/mean has shape .*more than"),
        (_negative_variance, "shape/model/pcaVariance holds -1"),
    ],
)
def test_harmful_and_broken_files_are_one_clear_error(
    small: MorphableModel, tmp_path: Path, harm: Harm, message: str
) -> None:
    path = tmp_path / "model.h5"
    write_scalismo(small, path)
    with h5py.File(path, "r+") as file:
        harm(file, tmp_path)
    with pytest.raises(UsageError, match=message) as caught:
        MorphableSource(str(path)).list({"face": 1}, 0)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.h5", None, "there is no model"),
        ("page.h5", b"<html>", "is not HDF5"),
        ("empty.h5", b"", "is not HDF5"),
        ("new.mat", b"MATLAB 7.3 MAT-file" + bytes(600), "MATLAB 7.3"),
        ("page.mat", b"<html>" * 100, "no MATLAB 5 file"),
        ("model.npz", b"PK", "ends with .h5"),
    ],
)
def test_what_is_no_model_is_said(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        MorphableSource(str(tmp_path / name)).list({"face": 1}, 0)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shapePC": np.zeros((3, 3))}, "shapePC has shape"),
        ({"texMU": np.full((486, 1), np.nan)}, "texMU holds numbers that are not finite"),
        ({"tl": np.ones((4, 4))}, "tl has shape"),
        ({"tl": np.zeros((4, 3))}, "tl names vertices -1"),
        ({"shapeEV": "text"}, "shapeEV holds something else"),
        ({"texPC": None}, "texPC is missing"),
    ],
)
def test_broken_mat_files(
    small: MorphableModel, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    arrays = {name: value for name, value in (mat_of(small) | change).items() if value is not None}
    savemat(tmp_path / "m.mat", arrays)
    with pytest.raises(UsageError, match=f"m.mat: {message}"):
        load_model(str(tmp_path / "m.mat"))


def test_a_real_head_is_read(real_model: Path) -> None:
    model = load_model(str(real_model))
    vertices, _ = make_face(model, draw_coefficients(model, 0, 0, 0.0))
    size = np.ptp(vertices, axis=0)
    assert size[1] > size[0], "higher than wide: y is up"
    assert (size > 150).all(), "millimetres"
    assert (size < 300).all(), "millimetres"
    a, b, c = (vertices[model.cells[:, i]].astype(float) for i in range(3))
    assert np.einsum("ij,ij->", a, np.cross(b, c)) > 0, "faces look outwards"
    rms = np.sqrt((model.shape.directions**2).sum(axis=1).reshape(-1, 3).sum(axis=1).mean())
    assert 1.0 < rms < 10.0, f"{rms:.2f} mm: heads differ by millimetres, so sigma is applied once"


@pytest.mark.bpy
def test_faces_stand_upright_and_look_along_the_worlds_y(worker: BlenderWorker, tmp_path: Path) -> None:
    """From the side, the nose points to +y; from the front there is skin, from behind hair."""
    source = make_source({"kind": "morphable", "coefficient_sigma": 0.0})
    mesh = source.fetch(source.list({"face": 1}, 0)[0], tmp_path)
    images = render(worker, mesh, cameras_at([90.0, 270.0, 0.0], [0.0, 0.0, 0.0]), size=64).images
    front, back, side = images
    assert front[20:40, 24:40, 0][front[20:40, 24:40, 3] == 255].mean() > 120
    assert back[14:30, 24:40, 0][back[14:30, 24:40, 3] == 255].mean() < 90
    rows = side[..., 3] > 127
    top = np.flatnonzero(rows.any(axis=1))[0]
    upper, lower = rows[top : top + 20].sum(), rows[-(top + 20) : len(rows) - top].sum()
    assert upper > lower, "the neck is below"
    red = front[..., 0].astype(int) - front[..., 2]
    assert red[front[..., 3] == 255].mean() > 15, "skin"


def test_ply_header_counts(tmp_path: Path) -> None:
    write_ply(
        tmp_path / "t.ply",
        np.eye(3),
        np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=np.uint8),
        np.array([[0, 1, 2]], dtype=np.int32),
    )
    content = (tmp_path / "t.ply").read_bytes()
    assert b"element vertex 3\n" in content
    assert content.endswith(b"\x03" + np.array([0, 1, 2], dtype="<i4").tobytes())
