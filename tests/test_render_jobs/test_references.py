from __future__ import annotations

from pathlib import Path

import pytest

from render_jobs.references import MeshFolder


def folder_with(tmp_path: Path, *names: str) -> MeshFolder:
    for name in names:
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "root/models").mkdir(parents=True, exist_ok=True)
    return MeshFolder(tmp_path / "root/models/mesh.obj", tmp_path / "root")


@pytest.mark.parametrize("folder", ["models", "models/images", "images"])
@pytest.mark.parametrize(
    "written", [rb"C:\Users\me\Wood.JPG", b"../textures/wood.jpg", rb"..\images\WOOD.jpg"]
)
def test_files_are_found_by_name(tmp_path: Path, folder: str, written: bytes) -> None:
    around = folder_with(tmp_path, f"{folder}/wood.jpg")
    assert around.find(written).path == tmp_path / "root" / folder / "wood.jpg"
    assert around.find(b"other.jpg").problem == "is missing"


def test_the_name_as_written_goes_first(tmp_path: Path) -> None:
    around = folder_with(tmp_path, "images/wood.jpg", "models/wood.jpg", "models/a b/wood.jpg")
    assert around.find(b"../images/wood.jpg").path == tmp_path / "root/images/wood.jpg"
    assert around.find(b"a b/wood.jpg").path == tmp_path / "root/models/a b/wood.jpg"
    assert around.find(str(tmp_path / "root/images/wood.jpg").encode()).path is not None


@pytest.mark.parametrize(
    "written", ["../../secret.png", "{tmp}/secret.png", "link.png", "up/secret.png", "loop"]
)
def test_nothing_outside_the_root_is_found(tmp_path: Path, written: str) -> None:
    around = folder_with(tmp_path)
    (tmp_path / "secret.png").write_bytes(b"x")
    models = tmp_path / "root/models"
    (models / "link.png").symlink_to(tmp_path / "secret.png")
    (models / "up").symlink_to(tmp_path)
    (models / "loop").symlink_to(models / "loop")
    assert around.find(written.format(tmp=tmp_path).encode()).path is None


def test_unsafe_names_say_so_and_missing_ones_do_not(tmp_path: Path) -> None:
    around = folder_with(tmp_path)
    assert around.find(b"../../x.bin").unsafe
    assert around.find(b"/etc/passwd").unsafe
    assert around.find(b"https://example.org/x.bin").unsafe
    assert not around.find(b"x.bin").unsafe
    assert not around.find(rb"C:\x.bin").unsafe
    assert not around.find(b"x" * 5000).unsafe


def test_latin_1_names_find_files_in_either_encoding(tmp_path: Path) -> None:
    around = folder_with(tmp_path, "models/hölzern.png")
    latin = tmp_path / "root/models" / "gr\udcfcn.png"  # the bytes of a Latin-1 name
    latin.write_bytes(b"x")
    assert around.find("hölzern.png".encode("latin-1")).path == tmp_path / "root/models/hölzern.png"
    assert around.find("hölzern.png".encode()).path == tmp_path / "root/models/hölzern.png"
    assert around.find("grün.png".encode("latin-1")).path == latin
