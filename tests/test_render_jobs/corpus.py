"""Broken and odd meshes, each with what must become of it: a kind of failure, or a render with a warning.

Each generator fills one folder; SECRET lies outside of all of them, and its colour must never be seen.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.test_render_jobs.mesh_writers import Gltf, ply, square_gltf, stl, stl_text
from tests.test_render_jobs.meshes import CUBE, CUBE_CORNERS, CUBE_FACES
from tests.test_render_jobs.test_textures import png_header

SECRET = (255, 0, 255)
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
HTML = "<!DOCTYPE html><html><body>404 Not Found</body></html>"
VERTICES, FACES = CUBE[: CUBE.index("f ")], CUBE[CUBE.index("f ") :]
QUADS = [[corner - 1 for corner in face] for face in CUBE_FACES]
TRIANGLES = np.array([[f[0], f[i], f[i + 1]] for f in QUADS for i in (1, 2)])
# A cube with texture coordinates and one material.
PAINTED = (
    VERTICES
    + "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nusemtl paint\n"
    + "".join(
        "f " + " ".join(f"{corner}/{i + 1}" for i, corner in enumerate(face)) + "\n" for face in CUBE_FACES
    )
)
GREEN = "newmtl paint\nKd 0 0.8 0\n"


@dataclass(frozen=True)
class Case:
    """What to write and what to expect.

    Attributes:
        write: Fills a folder; returns the mesh, relative to it.
        kind: Of the failure, empty when the mesh must render.
        warning: Part of a warning that a render must have, empty when it must have none.
        green: The render must be in the colour of GREEN.
    """

    write: Callable[[Path], str]
    kind: str = ""
    warning: str = ""
    green: bool = False


def file(content: str | bytes, name: str = "mesh.obj", **others: str | bytes) -> Callable[[Path], str]:
    """Writes the mesh and other files; `__` in a keyword is a dot."""

    def write(folder: Path) -> str:
        for key, value in {name: content, **{k.replace("__", "."): v for k, v in others.items()}}.items():
            (folder / key).write_bytes(value.encode() if isinstance(value, str) else value)
        return name

    return write


def painted(texture: str, **others: str | bytes) -> Callable[[Path], str]:
    """A green cube with a texture."""
    return file("mtllib mesh.mtl\n" + PAINTED, mesh__mtl=f"{GREEN}map_Kd {texture}\n", **others)


def with_link(write: Callable[[Path], str], link: str, target: str) -> Callable[[Path], str]:
    def both(folder: Path) -> str:
        (folder / link).symlink_to(folder / target)
        return write(folder)

    return both


def plain_png(colour: tuple[int, int, int]) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(content, "PNG")
    return content.getvalue()


def noise_jpeg() -> bytes:
    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(content, "JPEG")
    return content.getvalue()


def _special(make: Callable[[Path], object]) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        make(folder / "mesh.obj")
        return "mesh.obj"

    return write


def _zip(folder: Path) -> str:
    with zipfile.ZipFile(folder / "mesh.obj", "w") as archive:
        archive.writestr("mesh.obj", CUBE)
    return "mesh.obj"


def _png(folder: Path) -> str:
    Image.new("RGB", (32, 32), SECRET).save(folder / "mesh.png")
    (folder / "mesh.png").rename(folder / "mesh.obj")
    return "mesh.obj"


def _gltf(
    change: Callable[[dict], object] = lambda _: None, name: str = "mesh.gltf"
) -> Callable[[Path], str]:
    built = Gltf()
    built.node(mesh=built.mesh(CUBE_CORNERS, TRIANGLES.ravel()))
    document = json.loads(built.gltf())
    change(document)
    return file(json.dumps(document), name)


def _glb() -> bytes:
    built = Gltf()
    built.node(mesh=built.mesh(CUBE_CORNERS, TRIANGLES.ravel()))
    return built.glb()


def _memory_hog(folder: Path) -> str:
    """A small file whose nodes repeat a mesh until there are some 170 million corners."""
    built = Gltf()
    n = 20_000
    mesh = built.mesh(np.random.default_rng(0).normal(size=(n, 3)), np.arange(3 * n) % n)
    for i in range(2800):
        built.node(mesh=mesh, translation=[i, 0, 0])
    return file(built.glb(), "mesh.glb")(folder)


def _gltf_texture(uri: str) -> Callable[[Path], str]:
    rough = {"baseColorTexture": {"index": 0}, "baseColorFactor": [0, 0.8, 0, 1]}
    built = square_gltf(name="paint", pbrMetallicRoughness=rough)
    built.add("textures", source=built.add("images", uri=uri))
    return file(built.gltf(), "mesh.gltf")


def _bright(factor: float) -> Callable[[Path], str]:
    return file("mtllib mesh.mtl\n" + PAINTED, mesh__mtl=f"newmtl paint\nKd {factor} {factor} {factor}\n")


MANY = 10_000
MANY_MATERIALS = "".join(f"newmtl m{i}\nKd 0 {0.5 + i / MANY / 2} 0\n" for i in range(MANY))
MANY_FACES = "".join(f"usemtl m{i}\nf {' '.join(map(str, CUBE_FACES[i % 6]))}\n" for i in range(MANY))
CAR_PLY = ply(CUBE_CORNERS, QUADS, None)
TEXT_PLY = ply(CUBE_CORNERS, QUADS, None, "ascii")
CUBE_STL, CUBE_STL_TEXT = stl(CUBE_CORNERS[TRIANGLES]), stl_text(CUBE_CORNERS[TRIANGLES])
INSTEAD = "material colour used"

CASES: dict[str, Case] = {
    # What is no mesh file.
    "missing": Case(lambda _: "gone.obj", "missing_file"),
    "dangling link": Case(with_link(lambda _: "mesh.obj", "mesh.obj", "gone.obj"), "missing_file"),
    "folder": Case(_special(lambda path: path.mkdir()), "not_a_file"),
    "named pipe": Case(_special(os.mkfifo), "not_a_file"),
    "device": Case(_special(lambda path: path.symlink_to("/dev/zero")), "not_a_file"),
    "empty": Case(file(""), "empty_file"),
    "white space": Case(file(" \r\n\t\n"), "empty_file"),
    "html": Case(file(HTML), "html_page"),
    "lfs pointer": Case(file(LFS, "mesh.glb"), "lfs_pointer"),
    "zip": Case(_zip, "not_a_mesh"),
    "png": Case(_png, "not_a_mesh"),
    "prose": Case(file("Dear user,\nthe server is down.\n"), "not_a_mesh"),
    "blend": Case(file(b"BLENDER-v500", "mesh.blend"), "unsupported"),
    "unknown extension": Case(file(CUBE, "mesh.3ds"), "not_a_mesh"),
    "sparse giant": Case(_special(lambda path: path.touch() or os.truncate(path, 1 << 36)), "too_large"),
    # OBJ.
    "cut in a vertex": Case(file(CUBE[:40]), "truncated"),
    "cut in a face": Case(file(CUBE.strip()[:-4]), "truncated"),
    "no faces": Case(file(VERTICES), "no_faces"),
    "lines only": Case(file(VERTICES + "l 1 2 3\n"), "no_faces"),
    "not a number": Case(file(CUBE.replace("v -0.5", "v nan", 1)), "bad_vertex"),
    "infinite": Case(file(CUBE.replace("v -0.5", "v -inf", 1)), "bad_vertex"),
    "beyond float": Case(file(CUBE.replace("v -0.5", "v 1e60", 1)), "bad_vertex"),
    "absurd extent": Case(file(CUBE.replace("v -0.5", "v 1e30", 1)), "absurd_extent"),
    "far from the origin": Case(
        file(CUBE.replace("v 0.5", "v 30000000").replace("v -0.5", "v 29999998")), "absurd_extent"
    ),
    "single point": Case(file("v 3 3 3\n" * 8 + FACES), "no_extent"),
    "collinear": Case(file("v 0 0 0\nv 1 1 1\nv 2 2 2\nf 1 2 3\n"), "empty_render"),
    "indices out of range": Case(file(VERTICES + "f 7 8 900000\nf -90 1 2\n"), "bad_index"),
    "zero indices": Case(file(VERTICES + "f 0 0 0\n"), "bad_index"),
    "index that is no number": Case(file(VERTICES + "f nan nan nan\n"), "bad_index"),
    "some indices out of range": Case(file(CUBE + "f 1 2 99\nf 0 1 2\nf nan 1 2\n"), warning="grey"),
    "negative indices": Case(file(VERTICES + "f -8 -7 -5 -6\nf -4 -3 -1 -2\n"), warning="grey"),
    "windows lines": Case(
        file(("mtllib mesh.mtl\n" + PAINTED).replace("\n", "\r\n"), mesh__mtl=GREEN.replace("\n", "\r\n")),
        green=True,
    ),
    "macintosh lines": Case(
        file(("mtllib mesh.mtl\n" + PAINTED).replace("\n", "\r"), mesh__mtl=GREEN.replace("\n", "\r")),
        green=True,
    ),
    "long comment": Case(file("# " + "x" * 30_000_000 + "\n" + CUBE), warning="grey"),
    "many materials": Case(
        file("mtllib mesh.mtl\n" + VERTICES + MANY_FACES, mesh__mtl=MANY_MATERIALS), green=True
    ),
    "library named like a texture of ours": Case(
        file(
            "mtllib texture0.png\n" + PAINTED,
            texture0__png=GREEN + "map_Kd green.png\n",
            green__png=plain_png((0, 230, 0)),
        ),
        green=True,
    ),
    "library that is a folder": Case(file("mtllib .\n" + CUBE), warning="is missing"),
    "its own library": Case(file("mtllib mesh.obj\n" + CUBE), warning="grey"),
    "calls itself": Case(file("call mesh.obj\ncsh rm -rf .\n" + CUBE), warning="grey"),
    "secret library": Case(file("mtllib ../../secret.mtl\n" + PAINTED), warning="outside"),
    "linked secret library": Case(
        with_link(file("mtllib mesh.mtl\n" + PAINTED), "mesh.mtl", "../../secret.mtl"), warning="outside"
    ),
    "unicode names": Case(
        file(
            "mtllib Größe 漢.mtl\n" + PAINTED.replace("paint", "Farbe 漢"),
            "Möbel 漢字.obj",
            **{"Größe 漢__mtl": GREEN.replace("paint", "Farbe 漢")},
        ),
        green=True,
    ),
    "latin-1 names": Case(
        file(
            ("mtllib f\xe4rbe.mtl\n" + PAINTED.replace("paint", "gr\xfcn")).encode("latin-1"),
            "M\udcf6bel.obj",
            färbe__mtl=GREEN.replace("paint", "gr\xfcn").encode("latin-1"),
        ),
        green=True,
    ),
    # Textures: the material's colour stands in.
    "missing texture": Case(painted("gone.png"), warning=INSTEAD, green=True),
    "html texture": Case(painted("t.png", t__png=HTML), warning="HTML", green=True),
    "lfs texture": Case(painted("t.png", t__png=LFS), warning="LFS", green=True),
    "corrupt texture": Case(
        painted("t.png", t__png=b"\x89PNG\r\n\x1a\n" + bytes(99)), warning="damaged", green=True
    ),
    "half a jpeg": Case(painted("t.jpg", t__jpg=noise_jpeg()[:2000]), warning="cut off", green=True),
    "gif texture": Case(painted("t.gif", t__gif=b"GIF89a" + bytes(99)), warning="no picture", green=True),
    "texture of headers": Case(painted("t.png", t__png=png_header(64, 64)), warning="decoded", green=True),
    "png bomb": Case(painted("t.png", t__png=png_header(50_000, 50_000)), warning="large", green=True),
    "secret texture": Case(painted("../../secret.png"), warning="outside", green=True),
    "absolute secret texture": Case(
        lambda folder: painted(str(folder.parent.parent / "secret.png"))(folder),
        warning="outside",
        green=True,
    ),
    "linked secret texture": Case(
        with_link(painted("t.png"), "t.png", "../../secret.png"), warning="outside", green=True
    ),
    "secret texture by folder": Case(
        with_link(painted("up/secret.png"), "up", "../.."), warning="outside", green=True
    ),
    "texture that is a pipe": Case(
        lambda folder: os.mkfifo(folder / "t.png") or painted("t.png")(folder), warning=INSTEAD, green=True
    ),
    # PLY and STL.
    "cut ply": Case(file(CAR_PLY[:-7], "mesh.ply"), "truncated"),
    "ply of two billion": Case(
        file(CAR_PLY.replace(b"vertex 8", b"vertex 2147483648"), "mesh.ply"), "truncated"
    ),
    "text ply of two billion faces": Case(
        file(TEXT_PLY.replace(b"face 6", b"face 2147483648"), "mesh.ply"), "truncated"
    ),
    "ply with a wrong index": Case(file(ply(CUBE_CORNERS, [[0, 1, 8]]), "mesh.ply"), "bad_index"),
    "ply not a number": Case(file(ply(CUBE_CORNERS * np.nan, QUADS), "mesh.ply"), "bad_vertex"),
    "points of a scanner": Case(file(ply(CUBE_CORNERS, []), "mesh.ply"), "no_faces"),
    "cut stl": Case(file(CUBE_STL[:-9], "mesh.stl"), "truncated"),
    "lying stl": Case(file(CUBE_STL[:80] + b"\xff\xff\xff\x7f" + CUBE_STL[84:], "mesh.stl"), "truncated"),
    "cut text stl": Case(file(CUBE_STL_TEXT[:-99], "mesh.stl"), "truncated"),
    # glTF.
    "cut glb": Case(file(_glb()[:-30], "mesh.glb"), "truncated"),
    "gltf that lies about a buffer": Case(
        _gltf(lambda d: d["buffers"][0].update(byteLength=10**9)), "truncated"
    ),
    "gltf of a huge count": Case(_gltf(lambda d: d["accessors"][0].update(count=2**40)), "truncated"),
    "gltf without its accessor": Case(_gltf(lambda d: d["accessors"].pop()), "bad_index"),
    "gltf in a circle": Case(_gltf(lambda d: d["nodes"][0].update(children=[0])), "bad_structure"),
    "gltf with a secret buffer": Case(
        _gltf(lambda d: d["buffers"][0].update(uri="../../secret.png")), "unsafe_reference"
    ),
    "gltf without its buffer": Case(_gltf(lambda d: d["buffers"][0].update(uri="gone.bin")), "missing_file"),
    "gltf with a secret texture": Case(_gltf_texture("../../secret.png"), warning="outside", green=True),
    "gltf without its texture": Case(_gltf_texture("gone.png"), warning=INSTEAD, green=True),
    "json": Case(file('{"a": 1}', "mesh.gltf"), "not_a_mesh"),
    "memory hog": Case(_memory_hog, "out_of_memory"),
    # Renders that are none.
    "invisible": Case(file("mtllib mesh.mtl\n" + PAINTED, mesh__mtl="newmtl paint\nd 0\n"), "empty_render"),
    "overexposed": Case(_bright(20.0), "overexposed"),
    # The child process itself.
    "segfault": Case(file(CUBE, "sigsegv.obj"), "crash"),
    "abort": Case(file(CUBE, "sigabrt.obj"), "crash"),
    "killed": Case(file(CUBE, "sigkill.obj"), "killed"),
    "hang": Case(file(CUBE, "hang.obj"), "timeout"),
    "surprise": Case(file(CUBE, "surprise.obj"), "render_error"),
}

# Imported by the child's Python at its start: makes it die or hang for real on meshes of certain names.
SITECUSTOMIZE = """
import os, signal, sys, time
if "render_jobs.child" in sys.orig_argv:
    import render_jobs.prepare
    whole = render_jobs.prepare.prepare_mesh

    def prepare_mesh(mesh_input, *rest):
        name = mesh_input.path.stem
        if name.startswith("sig"):
            print("about to die of", name, file=sys.stderr, flush=True)
            os.kill(os.getpid(), getattr(signal, name.upper()))
        if name == "hang":
            time.sleep(3600)
        if name == "surprise":
            raise ZeroDivisionError("nobody expected that")
        return whole(mesh_input, *rest)

    render_jobs.prepare.prepare_mesh = prepare_mesh
"""
