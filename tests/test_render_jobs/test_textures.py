from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from render_jobs.mesh_file import FileLimits
from render_jobs.references import MeshFolder
from render_jobs.textures import TextureShelf, picture_problem

LIMITS = FileLimits(mesh_bytes=1 << 20, texture_pixels=10_000)


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises any size and holds nothing."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    empty = b"IDAT" + zlib.compress(b"")
    chunks = b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, empty, b"IEND")
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tga", "tiff", "webp"])
def test_pictures_pass(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture.{suffix}"
    Image.new("RGB", (100, 100), "red").save(path)
    assert picture_problem(path, LIMITS) == ""
    assert "100×100" in picture_problem(path, FileLimits(texture_pixels=9999))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"<html>404</html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
        (b"PK\x03\x04" + bytes(100), "no picture"),
        (b"\x89PNG\r\n\x1a\n" + bytes(9), "no picture"),
        (png_header(100, 101), "too large (100×101"),
        (png_header(60_000, 60_000), "large"),
        (png_header(2**31 - 1, 2**31 - 1), "large"),
        (bytes(1 << 21), "limit"),
    ],
)
def test_what_must_not_be_decoded(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    assert said in picture_problem(path, LIMITS)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "tiff", "dds"])
def test_pictures_that_blender_would_draw_in_part(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (90, 100, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, **({"progressive": True} if suffix == "jpeg" else {}))
    content = path.read_bytes()
    assert picture_problem(path, LIMITS) == ""
    for end in (len(content) // 2, len(content) - 100):
        path.write_bytes(content[:end])
        assert "cut off" in picture_problem(path, LIMITS)


def test_a_gif_is_said_to_be_unreadable(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), "red").save(tmp_path / "picture.gif")
    assert "no picture" in picture_problem(tmp_path / "picture.gif", LIMITS)


def test_a_shelf_links_each_picture_once_under_a_name_of_its_own(tmp_path: Path) -> None:
    shelf_folder, root = tmp_path / "shelf", tmp_path / "root"
    shelf_folder.mkdir()
    root.mkdir()
    Image.new("RGB", (4, 4)).save(root / "a b.png")
    shelf = TextureShelf(shelf_folder, MeshFolder(root / "mesh.obj", root), LIMITS)
    first, again = shelf.find(b"a b.png"), shelf.find(rb"D:\x\A B.PNG")
    assert first.path == again.path == shelf_folder / "links/texture0.png"
    assert first.path.resolve() == root / "a b.png"
    assert shelf.find(b"gone.png").path is None
    packed = shelf.add((root / "a b.png").read_bytes(), "packed")
    assert packed.path == shelf_folder / "texture1"
    assert shelf.names == {"texture0.png": "a b.png", "texture1": "packed"}
    assert "no picture" in shelf.add(b"nonsense", "packed").problem
    assert "no picture" in shelf.add(bytes(LIMITS.mesh_bytes // 2), "packed").problem
    assert "too many" in shelf.add(bytes(LIMITS.mesh_bytes // 2), "packed").problem
    assert sum(path.stat().st_size for path in shelf_folder.glob("texture*")) < LIMITS.mesh_bytes
