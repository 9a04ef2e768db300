"""OBJ files for Blender's importer, which reads anything and reports success.

The importer gets a private folder with a link to the mesh and a material library of ours: only base colour,
opacity and vetted textures are in it, so that no line of the mesh or its materials makes Blender open
anything else, and nothing there has a name of the mesh's choice. The mesh is copied only where a link will
not do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from render_jobs.formats.geometry import Geometry
from render_jobs.formats.mtl import MaterialWriter
from render_jobs.formats.obj_faces import read_obj
from render_jobs.mesh_file import FileLimits, MeshError, read_regular_file, write_new_file
from render_jobs.references import MeshFolder
from render_jobs.textures import LINKS, TextureShelf, display_name

# A decimal number that fits a 32-bit float, and vertex lines that do not start with three of them.
_NUMBER = rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE](?:-\d+|\+?0*(?:[0-2]?\d|3[0-7])))?"
_BAD_VERTEX = re.compile(
    rb"^[ \t]*+v[ \t]++(?!(?:%s(?:[ \t]+|(?=[\r\n]|\Z))){3})[^\r\n]*" % _NUMBER, re.MULTILINE
)
_VERTEX = re.compile(rb"^[ \t]*v[ \t]", re.MULTILINE)
_FACE = re.compile(rb"^[ \t]*f[ \t]+[^\s]+[ \t]+[^\s]+[ \t]+[^\s]", re.MULTILINE)
_CUT_FACE = re.compile(rb"f(?:[ \t]+[^\s]+){0,2}[ \t]*\Z|f[ \t][^\r\n]*/\Z")
_MAX_NAME_BYTES = 200
# Each costs Blender 4 ms, and more the more there are: 1000 take 4 s, 10,000 several minutes.
_MAX_MATERIALS = 64
_LONG_LINE_BYTES = 1 << 15


@dataclass(frozen=True)
class ObjFile:
    """An OBJ file that Blender may import.

    Attributes:
        path: In the private folder.
        has_face_lines: Whether a line asks for a face; when Blender makes none, its corners do not exist.
        has_materials: Whether the libraries define a material.
    """

    path: Path
    has_face_lines: bool
    has_materials: bool


def prepare_obj(
    content: bytes, mesh_path: Path, around: MeshFolder, shelf: TextureShelf, folder: Path, limits: FileLimits
) -> tuple[ObjFile | Geometry, list[str]]:
    """Checks an OBJ file and puts what Blender needs of it into a private folder.

    Args:
        content: The file.
        mesh_path: Where it lies.
        around: The files around it.
        shelf: Takes its textures into `folder`.
        folder: The private folder, empty.
        limits: How large a material library may be.

    Returns:
        The file to import, or arrays where that would take too long, and warnings.

    Raises:
        MeshError: kinds not_a_mesh, truncated, bad_vertex, no_faces, bad_index.
    """
    text = plain_lines(content)
    has_face_lines = _check(text, mesh_path.name)
    names = material_libraries(text)
    writer = MaterialWriter(shelf)
    warnings = _read_libraries(text, mesh_path, around, writer, limits)
    if len(writer.looks) > _MAX_MATERIALS or _has_long_line(text):
        return read_obj(text, writer.looks, mesh_path.name), warnings + writer.warnings
    path = folder / "mesh.obj"
    if text is content and len(set(names)) <= 1 and all(map(_leads_nowhere, names)):
        path.symlink_to(mesh_path.absolute())
    else:
        write_new_file(path, _without_libraries(text))
    # The importer looks for it beside every mesh.obj, whatever libraries that names.
    write_new_file(folder / "mesh.mtl", writer.text())
    return ObjFile(path, has_face_lines, len(writer.looks) > 0), warnings + writer.warnings


def plain_lines(content: bytes) -> bytes:
    """Returns the content itself, or one in which lines end as the importer expects."""
    text = content
    if b"\r" in text and b"\n" not in text:  # old Macintosh
        text = text.replace(b"\r", b"\n")
    if b"\\\n" in text or b"\\\r\n" in text:  # lines that go on, as the importer joins them
        text = text.replace(b"\\\r\n", b"   ").replace(b"\\\n", b"  ")
    return text.removeprefix(b"\xef\xbb\xbf")


def _check(text: bytes, name: str) -> bool:
    """Returns whether there are lines that ask for faces."""
    if b"\0" in text[:4096]:
        raise MeshError("not_a_mesh", f"{name} is binary; an OBJ file is text")
    has_vertices, has_faces = _VERTEX.search(text) is not None, _FACE.search(text) is not None
    if not has_vertices and not has_faces:
        raise MeshError("not_a_mesh", f"{name} has neither vertices nor faces: it is no OBJ file")
    bad = _BAD_VERTEX.search(text)
    cut = bad.end() == len(text) if bad else _CUT_FACE.match(text, text.rfind(b"\n") + 1) is not None
    if cut:
        last = text[text.rfind(b"\n") + 1 :][:80].decode(errors="replace")
        raise MeshError("truncated", f"{name} ends in the middle of its last line: {last!r}")
    if bad is not None:
        line, shown = text.count(b"\n", 0, bad.start()) + 1, bad[0].strip()[:80].decode(errors="replace")
        raise MeshError("bad_vertex", f"{name}, line {line}: not three finite coordinates: {shown!r}")
    if not has_vertices:
        raise MeshError("bad_index", f"{name} has faces but no vertices")
    return has_faces


def _has_long_line(text: bytes) -> bool:
    """Whether a line may be too long for the importer, which silently leaves out the rest of the file."""
    blocks = range(0, len(text) - _LONG_LINE_BYTES, _LONG_LINE_BYTES)
    return any(text.find(b"\n", at, at + _LONG_LINE_BYTES) < 0 for at in blocks)


def material_libraries(text: bytes) -> list[bytes]:
    """Returns what stands after mtllib, in the order of the lines."""
    return [name for _, name in _library_lines(text)]


def _library_lines(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields where each mtllib stands, and its name; without a look at every line."""
    at = text.find(b"mtllib")
    while at >= 0:
        end = text.find(b"\n", at)
        end = len(text) if end < 0 else end
        name = text[at + 6 : end]
        if not text[text.rfind(b"\n", 0, at) + 1 : at].strip() and name[:1].isspace() and name.strip():
            yield at, name.strip()
        at = text.find(b"mtllib", end)


def _without_libraries(text: bytes) -> bytes:
    """Turns lines with mtllib into comments of the same length."""
    changed = bytearray(text)
    for at, _ in _library_lines(text):
        changed[at : at + 1] = b"#"
    return bytes(changed)


def _leads_nowhere(name: bytes) -> bool:
    """Whether the importer, given that name, finds nothing in the private folder but our library."""
    taken = {b"", b".", b"..", b"mesh.obj", os.fsencode(LINKS)}
    return len(name) <= _MAX_NAME_BYTES and not set(name) & set(b"/\\:\0") and name.strip(b'"') not in taken


def _read_libraries(
    text: bytes, mesh_path: Path, around: MeshFolder, writer: MaterialWriter, limits: FileLimits
) -> list[str]:
    warnings = []
    named = library_names(text, lambda name: around.find(name).path is not None)
    for name in named:
        reference = around.find(name)
        problem = reference.problem
        if reference.path is not None:
            problem = _read_library(reference.path, writer, limits)
        if problem:
            warnings.append(f"material file {display_name(name)} {problem}")
    if not set(default_libraries(mesh_path.name)) & set(named):
        references = [around.find_plain(name) for name in default_libraries(mesh_path.name)]
        for path in [reference.path for reference in references if reference.path is not None][:1]:
            _read_library(path, writer, limits)
    return warnings


def _read_library(path: Path, writer: MaterialWriter, limits: FileLimits) -> str:
    try:
        writer.read(read_regular_file(path, limits.mesh_bytes), path)
    except MeshError as error:
        return f"is unusable ({error})"
    return ""


def library_names(text: bytes, is_there: Callable[[bytes], bool]) -> list[bytes]:
    """Returns the material libraries that a mesh names, as written.

    A line has one name with spaces, or several names: what is there decides.

    Args:
        text: The mesh, as `plain_lines` returns it.
        is_there: Whether there is a file of a name.
    """
    found: list[bytes] = []
    for written in dict.fromkeys(material_libraries(text)):
        parts = written.split()
        several = len(parts) > 1 and all(part.strip(b'"').lower().endswith(b".mtl") for part in parts)
        found += parts if several and not is_there(written.strip(b'"')) else [written]
    return list(dict.fromkeys(name.strip(b'"') for name in found))


def default_libraries(mesh_name: str) -> list[bytes]:
    """Returns the names of the library that need not be named, likeliest first."""
    stem = PurePath(mesh_name).stem
    return [os.fsencode(stem + ending) for ending in (".mtl", ".MTL")]
