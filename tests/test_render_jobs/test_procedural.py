from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from render_jobs.sources.base import make_source
from render_jobs.sources.procedural import CLASSES, GENERATOR_VERSION, build, object_id, write_object
from render_jobs.sources.procedural.draw import Draw
from render_jobs.sources.procedural.mesh import Mesh, Part, box_grid, merged_lines, smooth_curve
from render_jobs.sources.procedural.obj import linear_from_srgb, normalised, triangles_of
from render_jobs.sources.procedural.shapes import box, extruded, lathe, ring, rod, rounded_box, tapered_box
from render_jobs.sources.procedural.source import parse_object_id
from render_jobs.sources.procedural.speaker_parts import Driver, baffle, driver_part, shell
from render_jobs.sources.shapenet import ShapeNetSource
from storage.errors import UsageError

N_CHECKED = 16
"""Objects of each class that the tests look at one by one."""
MADE_BY_VERSION_1 = {
    "car": "c89f1406008e85fc",
    "sofa": "18238cc52f1f1f61",
    "cabinet": "2934afc701b40bae",
    "speaker": "a813f2d804088c3e",
    "chair": "ee51211bea798a14",
}
"""Start of the sha256 of object 0's .obj: objects never change unless GENERATOR_VERSION does."""


@dataclass(frozen=True)
class ObjFile:
    """What an .obj says: vertices [N, 3], triangles [T, 3] from 0, the material and the group of each."""

    vertices: NDArray[np.float64]
    triangles: NDArray[np.int64]
    materials: list[str]
    groups: list[str]
    library: str


def read_obj(path: Path) -> ObjFile:
    vertices, triangles, materials, groups = [], [], [], []
    material = group = library = ""
    for line in path.read_text(encoding="ascii").splitlines():
        word, _, rest = line.partition(" ")
        if word == "v":
            vertices.append([float(x) for x in rest.split()])
        elif word == "f":
            triangles.append([int(x) - 1 for x in rest.split()])
            materials.append(material)
            groups.append(group)
        elif word == "usemtl":
            material = rest
        elif word == "g":
            group = rest
        elif word == "mtllib":
            library = rest
        else:
            assert word == "#", line
    return ObjFile(np.array(vertices), np.array(triangles), materials, groups, library)


def read_mtl(path: Path) -> dict[str, tuple[float, ...]]:
    colours: dict[str, tuple[float, ...]] = {}
    name = ""
    for line in path.read_text(encoding="ascii").splitlines():
        word, _, rest = line.partition(" ")
        if word == "newmtl":
            name = rest
        elif word == "Kd":
            colours[name] = tuple(float(x) for x in rest.split())
    return colours


def volume(part: Part) -> float:
    """Signed volume by the divergence theorem; the surface is checked to be closed, without flat faces."""
    scaled = np.rint(part.vertices * 1e6).astype(np.int64)
    triangles, _ = triangles_of(scaled, part.faces)
    expected = np.where(part.faces[:, 2] == part.faces[:, 3], 1, 2).sum()
    assert len(triangles) == expected, "faces without area"
    start, stop = triangles.ravel(), np.roll(triangles, -1, axis=1).ravel()
    edges = np.sort(start * len(scaled) + stop)
    assert (np.diff(edges) > 0).all(), "an edge is used twice in one direction: winding is not consistent"
    assert (np.sort(stop * len(scaled) + start) == edges).all(), "the surface is open"
    a, b, c = (part.vertices[triangles[:, i]] for i in range(3))
    return float((np.cross(a, b) * c).sum() / 6)


Meshes = dict[str, list[Mesh]]


@pytest.fixture(scope="module")
def meshes() -> Meshes:
    return {name: [build(name, k) for k in range(N_CHECKED)] for name in CLASSES}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    folder = tmp_path_factory.mktemp("procedural")
    return {name: [write_object(name, k, folder) for k in range(N_CHECKED)] for name in CLASSES}


def test_the_layout_is_that_of_shapenet_v2(written: dict[str, list[Path]]) -> None:
    assert set(CLASSES) == {"car", "sofa", "cabinet", "speaker", "chair"}
    for name, paths in written.items():
        end = ("models", "model_normalized.obj")
        assert paths[7].parts[-4:] == (CLASSES[name], f"{name}-000007", *end)
    root = written["car"][0].parents[3]
    entries = ShapeNetSource(str(root)).list({}, 0)
    assert {e.object_id for e in entries} == {object_id(n, k) for n in CLASSES for k in range(N_CHECKED)}


def test_the_same_object_has_the_same_bytes_in_another_process(
    written: dict[str, list[Path]], tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from render_jobs.sources.procedural import write_object\n"
        "for name in sys.argv[2:]: write_object(name, 11, Path(sys.argv[1]))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "77", "LC_ALL": "C"}
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *CLASSES], check=True, env=environment, cwd=root
    )
    for name, paths in written.items():
        again = tmp_path / CLASSES[name] / object_id(name, 11) / "models"
        for ours in (paths[11], paths[11].with_suffix(".mtl")):
            assert (again / ours.name).read_bytes() == ours.read_bytes(), name


def test_objects_do_not_change_within_a_generator_version(written: dict[str, list[Path]]) -> None:
    assert GENERATOR_VERSION == "1"
    made = {name: hashlib.sha256(paths[0].read_bytes()).hexdigest()[:16] for name, paths in written.items()}
    assert made == MADE_BY_VERSION_1, "objects changed: raise GENERATOR_VERSION and renew these"


@pytest.mark.parametrize("name", list(CLASSES))
def test_files_are_sound(written: dict[str, list[Path]], name: str) -> None:
    for path in written[name]:
        data = path.read_bytes()
        assert b"\r" not in data and data.endswith(b"\n")
        obj = read_obj(path)
        colours = read_mtl(path.parent / obj.library)
        extent = np.ptp(obj.vertices, axis=0)
        assert np.isfinite(obj.vertices).all()
        assert np.linalg.norm(extent) == pytest.approx(1.0, abs=5e-6)
        assert np.abs(obj.vertices.max(axis=0) + obj.vertices.min(axis=0)).max() <= 2e-6
        assert 200 <= len(obj.triangles) <= 7000
        assert obj.triangles.min() >= 0 and obj.triangles.max() < len(obj.vertices)
        assert set(obj.materials) == set(colours)
        assert all(0 <= channel < 1 for colour in colours.values() for channel in colour)
        a, b, c = (obj.vertices[obj.triangles[:, i]] for i in range(3))
        areas = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
        assert areas.min() > 1e-9, path
        assert len(np.unique(np.sort(obj.triangles, axis=1), axis=0)) == len(obj.triangles)


@pytest.mark.parametrize("name", list(CLASSES))
def test_every_part_is_closed_and_faces_outwards(meshes: Meshes, name: str) -> None:
    for k, mesh in enumerate(meshes[name]):
        span = float(np.linalg.norm(np.ptp(mesh.vertices, axis=0)))
        for group, part in mesh.parts:
            assert volume(part.scaled(1 / span, 1 / span, 1 / span)) > 0, (k, group)


@pytest.mark.parametrize("name", list(CLASSES))
def test_no_two_objects_are_alike(meshes: Meshes, name: str) -> None:
    assert len({normalised(mesh.vertices).tobytes() for mesh in meshes[name]}) == N_CHECKED
    assert len({tuple(sorted(mesh.colours.items())) for mesh in meshes[name]}) == N_CHECKED
    extents = np.array([np.ptp(mesh.vertices, axis=0) for mesh in meshes[name]])
    shapes = extents / np.linalg.norm(extents, axis=1, keepdims=True)
    assert np.ptp(shapes, axis=0).max() > 0.1, "proportions hardly vary"
    assert len({tuple(np.round(shape, 2)) for shape in shapes}) > 0.8 * N_CHECKED


def middle_z(mesh: Mesh, materials: set[str] | None = None, group: str | None = None) -> float:
    """Mean z of the corners of faces of some materials or of a group; the mesh lies centred in z."""
    points = []
    for name, part in mesh.parts:
        chosen = (
            np.isin(part.materials, list(materials)) if materials else np.full(len(part.faces), name == group)
        )
        points.append(part.vertices[part.faces[chosen]].reshape(-1, 3))
    z = np.concatenate(points)[:, 2]
    box_middle = (mesh.vertices[:, 2].max() + mesh.vertices[:, 2].min()) / 2
    return float(z.mean() - box_middle)


def test_cars_face_minus_z(meshes: Meshes) -> None:
    for car in meshes["car"]:
        assert middle_z(car, {"headlamp"}) < 0 < middle_z(car, {"taillamp"})
        extent = np.ptp(car.vertices, axis=0)
        assert extent[2] > 1.2 * max(extent[0], extent[1]), "a car is longest along z"


@pytest.mark.parametrize("name", ["sofa", "chair"])
def test_backs_of_seats_lie_at_plus_z(meshes: Meshes, name: str) -> None:
    for mesh in meshes[name]:
        assert middle_z(mesh, group="back") > max(0.0, middle_z(mesh, group="seat"))


@pytest.mark.parametrize(("name", "group"), [("cabinet", "fronts"), ("speaker", "front")])
def test_furniture_faces_minus_z(meshes: Meshes, name: str, group: str) -> None:
    with_front = [mesh for mesh in meshes[name] if any(g == group for g, _ in mesh.parts)]
    assert len(with_front) > N_CHECKED / 3
    assert all(middle_z(mesh, group=group) < 0 for mesh in with_front)


def test_the_shells_of_cars_are_symmetric(meshes: Meshes) -> None:
    for car in meshes["car"]:
        for group, part in car.parts:
            if group in {"body", "cabin"}:
                ours = {tuple(v) for v in np.rint(part.vertices * 1e5).astype(int).tolist()}
                assert ours == {(-x, y, z) for x, y, z in ours}


def test_the_source_lists_the_first_objects_of_each_class(tmp_path: Path) -> None:
    source = make_source({"kind": "procedural"})
    entries = source.list({"sofa": 2, CLASSES["car"]: 3}, seed=0)
    assert [e.object_id for e in entries] == [
        "sofa-000000", "sofa-000001", "car-000000", "car-000001", "car-000002",
    ]  # fmt: skip
    assert entries == source.list({"sofa": 2, "car": 3}, seed=5), (
        "the seed chooses nothing in an endless family"
    )
    assert len({e.fingerprint for e in entries}) == 5
    path = source.fetch(entries[3], tmp_path / "fetched").path
    assert path.read_bytes() == write_object("car", 1, tmp_path / "again").read_bytes()
    assert path.is_relative_to(tmp_path / "fetched")


@pytest.mark.parametrize("classes", [{}, {"car": None}, {"teapot": 3}, {"car": -1}])
def test_an_endless_family_wants_classes_and_counts(classes: dict[str, int | None]) -> None:
    with pytest.raises(UsageError, match="procedural"):
        make_source({"kind": "procedural"}).list(classes, 0)


@pytest.mark.parametrize(
    "text", ["car-12", "car-0000012", "teapot-000001", "car", "car-00001a", "-000001", ""]
)
def test_other_ids_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="names no procedural object"):
        parse_object_id(text)


def test_ids_parse_back() -> None:
    for name in CLASSES:
        for k in (0, 7, 999_999, 1_234_567):
            assert parse_object_id(object_id(name, k)) == (name, k)
    with pytest.raises(UsageError, match="no class 'teapot'"):
        build("teapot", 0)
    with pytest.raises(UsageError, match="start at 0"):
        build("car", -1)


def test_draws_are_pinned_and_streams_independent() -> None:
    # PCG64 is seeded by the first 16 bytes of the hash, big-endian; numpy promises its raw numbers.
    digest = hashlib.sha256(f"fpipe-procedural/{GENERATOR_VERSION}/car/12/shape".encode()).digest()
    raw = np.random.PCG64(int.from_bytes(digest[:16], "big")).random_raw(3)
    draw = Draw("car", 12)
    assert [draw.unit() for _ in range(3)] == [int(x) // 2**11 / 2**53 for x in raw]
    assert Draw("car", 12, "paint").unit() != Draw("car", 12).unit() != Draw("car", 13).unit()


def test_draws_keep_to_their_ranges() -> None:
    draw = Draw("car", 0, "test")
    assert {draw.integer(2, 4) for _ in range(200)} == {2, 3, 4}
    assert all(-1 <= draw.uniform(-1, 2) < 2 for _ in range(100))
    counts = [draw.weighted({"a": 3.0, "b": 1.0}) for _ in range(4000)].count("a")
    assert counts == pytest.approx(3000, abs=4 * (4000 * 0.75 * 0.25) ** 0.5)


def test_volumes_of_the_basic_shapes() -> None:
    assert volume(box((1, 2, 3), "m")) == pytest.approx(6)
    # a frustum: h/3 (A1 + A2 + sqrt(A1 A2)) = 2/3 (1 + 1/4 + 1/2) = 7/6
    assert volume(tapered_box((1, 2, 1), (0.5, 0.5), "m")) == pytest.approx(7 / 6)
    # a regular 8-gon of radius 1 has the area 8/2 sin(45 deg) = 2 sqrt(2)
    assert volume(lathe([(1, 0), (1, 3)], 8, "m")) == pytest.approx(3 * 2 * 2**0.5)
    assert volume(lathe([(0, 0), (1, 0), (0, 3)], 8, "m")) == pytest.approx(2 * 2**0.5)
    assert volume(rod((1, 2, 3), (1, 2, 6), 1, "m")) == pytest.approx(3 * 2 * 2**0.5)
    assert volume(ring(1, 0.5, 1, 8, "m")) == pytest.approx(0.75 * 2 * 2**0.5)
    assert volume(extruded([(0, 0), (2, 0), (0, 2)], 3, "m")) == pytest.approx(6)
    # edges rounded with radius r: between the core plus its six slabs, and the full box
    assert 0.9 < volume(rounded_box((1, 1, 1), 0.1, "m")) < 1
    assert volume(driver_part(Driver("woofer", 1.0), 0.4)) > 0
    assert volume(shell((1, 2, 3), 0.1, "m")) == pytest.approx(6, rel=0.01)


def test_moves_keep_volume_and_orientation() -> None:
    part = extruded([(0, 0), (2, 0), (0, 2)], 3, "m")
    for moved in (part.mirrored(), part.turned("x", 33), part.turned("y", 200), part.turned("z", -5)):
        assert volume(moved.moved(1, 2, 3)) == pytest.approx(6)
    assert volume(part.scaled(2, 3, 0.5)) == pytest.approx(18)
    assert volume(lathe([(0, 0), (1, 0), (0, 3)], 8, "m").mirrored()) == pytest.approx(2 * 2**0.5)
    turned = box((1, 1, 1), "m").moved(x=1).turned("y", 90)
    assert turned.vertices.mean(axis=0) == pytest.approx([0, 0, -1]), "right-handed: x goes to -z about y"


def test_a_grid_knows_its_sides() -> None:
    grid = box_grid((0, 1, 2), (0, 1), (0, 1, 2, 3))
    assert len(grid.faces) == 2 * (2 * 1 + 1 * 3 + 2 * 3)
    part = grid.part(grid.points, "m")
    a, b, c = (part.vertices[part.faces[:, i]] for i in range(3))
    for normal, side in zip(np.cross(b - a, c - b), grid.side, strict=True):
        expected = np.zeros(3)
        expected["xyz".index(side[1])] = 1.0 if side[0] == "+" else -1.0
        assert normal.tolist() == expected.tolist()


def test_a_front_leaves_its_holes_open() -> None:
    parts = baffle((1.0, 2.0), [(Driver("port", 0.3), 1.0), (None, 1.0)], 0.2, 0.0, "m")
    plates = [part for part in parts if set(part.materials) == {"m"}]
    assert len(plates) == 2
    assert all(volume(part) > 0 for part in parts)
    holed, closed = (volume(part) for part in plates)
    # a regular 24-gon of radius r has the area 24/2 r^2 sin(15 deg)
    assert closed - holed == pytest.approx(0.2 * 12 * 0.3**2 * np.sin(np.radians(15)), rel=1e-6)


def test_a_smooth_curve_meets_its_knots_and_does_not_overshoot() -> None:
    knots = [(0.0, 0.0), (1.0, 2.0), (1.5, 2.0), (3.0, -1.0)]
    at = np.linspace(-1, 4, 501)
    values = smooth_curve(at, knots)
    assert smooth_curve(np.array([x for x, _ in knots]), knots).tolist() == [y for _, y in knots]
    assert values.min() == -1.0 and values.max() == 2.0
    assert (np.diff(values[at < 1]) >= 0).all() and (np.diff(values[at > 1.5]) <= 0).all()


def test_merged_lines_keep_the_fixed_ones() -> None:
    assert merged_lines([0.0, 1.0, 0.05], [0.5, 0.04, 0.52, 2.0], 0.1) == [0.0, 0.05, 0.5, 1.0]


def test_colours_are_written_linear() -> None:
    # 0.5 sRGB: ((0.5 + 0.055) / 1.055) ** 2.4 = 0.214; below 0.04045 the curve is a line of slope 1 / 12.92.
    assert linear_from_srgb((0.5, 0.0, 0.03876)) == pytest.approx((0.21404, 0.0, 0.003), abs=1e-5)


def test_quads_are_cut_along_the_shorter_diagonal() -> None:
    vertices = np.array([[0, 0, 0], [4, 0, 0], [5, 1, 0], [1, 1, 0]])
    triangles, origin = triangles_of(vertices, np.array([[0, 1, 2, 3], [0, 1, 2, 2]]))
    assert triangles.tolist() == [[0, 1, 3], [1, 2, 3], [0, 1, 2]]
    assert origin.tolist() == [0, 0, 1]
