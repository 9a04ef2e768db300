"""PLY: text and binary, polygons, colours of vertices.

Colours are sRGB, as every exporter writes them: bytes over 255 (16 bits over 65535), floats as they are.
Counts in the header are compared with the size of the file before anything is allocated for them.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from render_jobs.formats.geometry import Geometry, checked_corners, checked_vertices, srgb_to_linear
from render_jobs.mesh_file import MeshError
from render_jobs.textures import display_name

_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_MAX_HEADER_BYTES = 1 << 20
_END = re.compile(rb"[\r\n]end_header[ \t]*(?:\r\n|\r|\n|\Z)")  # a comment may have the word, too
_TEXTURE = re.compile(rb"[\r\n]comment[ \t]+TextureFile[ \t]+([^\r\n]+)", re.IGNORECASE)
_CORNER_NAMES = ("vertex_indices", "vertex_index")
_COLOUR_NAMES = (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"))

Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class _Property:
    name: str
    type: str
    count_type: str = ""  # of a list


@dataclass
class _Element:
    name: str
    count: int
    properties: list[_Property]


@dataclass(frozen=True)
class _Column:
    """Values of one property; of a list, all of them and how many belong to each row."""

    values: Numbers
    sizes: Numbers | None
    type: str


def read_ply(content: bytes, name: str) -> Geometry:
    """Reads a PLY file.

    Raises:
        MeshError: kinds not_a_mesh, truncated, bad_vertex, bad_index, no_faces, unsupported.
    """
    order, elements, start = _header(content, name)
    body = memoryview(_numbers(content[start:], name) if order == "" else content)
    body = body if order == "" else body[start:]
    tables: dict[str, dict[str, _Column]] = {}
    for element in elements:
        tables[element.name], body = _table(body, element, order, name)
        if {"vertex", "face"} <= tables.keys():
            break
    return _geometry(tables, name)


def undrawn_textures(content: bytes) -> list[str]:
    """Returns a warning for each texture that the header of a PLY file names: none is drawn."""
    end = _END.search(content, 0, _MAX_HEADER_BYTES)
    names = _TEXTURE.findall(content, 0, end.start() + 1 if end else 0)
    return [
        f"texture {display_name(name.strip())} is not drawn: textures of PLY are not read" for name in names
    ]


def _geometry(tables: dict[str, dict[str, _Column]], name: str) -> Geometry:
    vertex, face = tables.get("vertex", {}), tables.get("face", {})
    if "vertex" in tables and not vertex:
        raise MeshError("no_faces", f"{name} is empty: it has no vertices")
    if not {"x", "y", "z"} <= vertex.keys():
        raise MeshError("not_a_mesh", f"{name} has no vertices with x, y and z")
    vertices = checked_vertices(np.stack([vertex[axis].values for axis in "xyz"], axis=1), name)
    column = next((face[key] for key in _CORNER_NAMES if key in face), None)
    if column is None and "tristrips" in tables:
        raise MeshError("unsupported", f"{name} has triangle strips: convert it to plain triangles")
    if column is None or column.sizes is None:
        raise MeshError("no_faces", f"{name} has no faces")
    kept = column.sizes >= 3  # points and lines are no faces
    corners = checked_corners(column.values[np.repeat(kept, column.sizes)], len(vertices), name)
    colours = _colours(vertex)
    return Geometry(
        vertices,
        corners,
        column.sizes[kept].astype(np.int32),
        colours=None if colours is None else colours[corners],
    )


def _colours(vertex: dict[str, _Column]) -> npt.NDArray[np.float32] | None:
    names = next((names for names in _COLOUR_NAMES if set(names) <= vertex.keys()), None)
    if names is None:
        return None
    channels = [vertex[channel] for channel in (*names, "alpha") if channel in vertex]
    unit = np.stack([_unit(column) for column in channels], axis=1)
    rgba = np.ones((len(unit), 4), dtype=np.float32)
    rgba[:, :3] = srgb_to_linear(unit[:, :3])
    rgba[:, 3 : unit.shape[1]] = unit[:, 3:]
    return rgba


def _unit(column: _Column) -> npt.NDArray[np.float64]:
    """Colours in [0, 1]; what is no number is black."""
    scale = 1.0 if column.type[0] == "f" else float(np.iinfo(column.type).max)
    wide = np.nan_to_num(column.values.astype(np.float64), nan=0.0)
    return np.clip(wide / scale, 0.0, 1.0)


def _header(content: bytes, name: str) -> tuple[str, list[_Element], int]:
    """Returns the byte order ("" for text), the elements, and where the body starts."""
    if content[:4] not in (b"ply\n", b"ply\r"):
        raise MeshError("not_a_mesh", f"{name} does not start like a PLY file")
    end = _END.search(content, 0, _MAX_HEADER_BYTES)
    if end is None:
        kind = "truncated" if len(content) < _MAX_HEADER_BYTES else "not_a_mesh"
        raise MeshError(kind, f"{name} has no end of header")
    try:
        order, elements = _parse_header(content[: end.start()].decode("latin-1").splitlines())
    except (ValueError, KeyError, IndexError) as error:
        raise MeshError("not_a_mesh", f"{name} has a PLY header that makes no sense: {error}") from error
    return order, elements, end.end()


def _parse_header(lines: list[str]) -> tuple[str, list[_Element]]:
    order: str | None = None
    elements: list[_Element] = []
    for line in lines[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format":
            order = _ORDERS[words[1]]
        elif words[0] == "element":
            elements.append(_Element(words[1], int(words[2]), []))
        elif words[0] == "property" and words[1] == "list":
            elements[-1].properties.append(_Property(words[4], _TYPES[words[3]], _TYPES[words[2]]))
        elif words[0] == "property":
            elements[-1].properties.append(_Property(words[2], _TYPES[words[1]]))
        else:
            raise ValueError(f"unknown line {line[:80]!r}")
    if order is None or any(element.count < 0 for element in elements):
        raise ValueError("no format, or a negative count")
    return order, elements


def _numbers(text: bytes, name: str) -> bytes:
    """Returns the numbers of a text body as doubles: from there on, text is binary, too."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy stops at what is no number, with a warning
        try:
            return np.fromstring(text, dtype="<f8", sep=" ").tobytes()
        except (ValueError, DeprecationWarning) as error:
            raise MeshError("bad_vertex", f"{name}: what should be numbers is something else") from error


def _table(
    body: memoryview, element: _Element, order: str, name: str
) -> tuple[dict[str, _Column], memoryview]:
    """Reads one element; returns its columns and the rest of the body.

    Args:
        body: From the element's first byte on.
        element: What to read.
        order: "<" or ">", "" when all values are little-endian doubles.
        name: Of the file, for messages.
    """
    if element.count == 0 or not element.properties:
        return {}, body
    types = [(p, _dtype(p.type, order), _dtype(p.count_type or p.type, order)) for p in element.properties]
    smallest = sum((count if p.count_type else value).itemsize for p, value, count in types)
    try:
        if element.count * smallest > len(body):
            raise IndexError
        columns, used = _uniform(body, element, types) or _row_by_row(body, element, types)
    except (IndexError, ValueError, OverflowError) as error:
        reason = f"{name} ends before the {element.count} rows of {element.name} that its header promises"
        raise MeshError("truncated", reason) from error
    return columns, body[used:]


_Types = list[tuple[_Property, np.dtype[Any], np.dtype[Any]]]


def _dtype(type_: str, order: str) -> np.dtype[Any]:
    return np.dtype(order + type_ if order else "<f8")


def _uniform(body: memoryview, element: _Element, types: _Types) -> tuple[dict[str, _Column], int] | None:
    """Reads rows in one piece, when every list has the length that it has in the first row."""
    first, _ = _row_by_row(body, _Element(element.name, 1, element.properties), types)
    fields: list[tuple[str, Any, Any]] = []
    for i, (prop, value, count) in enumerate(types):
        if prop.count_type:
            fields.append((f"n{i}", count, ()))
        fields.append((f"v{i}", value, len(first[prop.name].values) if prop.count_type else ()))
    rows_type = np.dtype(fields)
    if element.count * rows_type.itemsize > len(body):
        return None
    rows = np.frombuffer(body, rows_type, count=element.count)
    columns = {}
    for i, (prop, _, _) in enumerate(types):
        values, sizes = rows[f"v{i}"], None
        if prop.count_type:
            if not (rows[f"n{i}"] == values.shape[1]).all():
                return None
            sizes = np.full(element.count, values.shape[1], dtype=np.int64)
        columns[prop.name] = _Column(values.reshape(-1), sizes, prop.type)
    return columns, element.count * rows_type.itemsize


def _row_by_row(body: memoryview, element: _Element, types: _Types) -> tuple[dict[str, _Column], int]:
    values: list[list[Any]] = [[] for _ in types]
    sizes: list[list[int]] = [[] for _ in types]
    at = 0
    for _ in range(element.count):
        for i, (prop, value, count) in enumerate(types):
            n = 1
            if prop.count_type:
                n = int(np.frombuffer(body, count, 1, at)[0])
                at += count.itemsize
                sizes[i].append(n)
            if not 0 <= n * value.itemsize <= len(body) - at:
                raise IndexError
            if n:
                values[i].append(np.frombuffer(body, value, n, at))
                at += n * value.itemsize
    columns = {
        prop.name: _Column(
            np.concatenate(values[i]) if values[i] else np.zeros(0, dtype=value),
            np.array(sizes[i], dtype=np.int64) if prop.count_type else None,
            prop.type,
        )
        for i, (prop, value, _) in enumerate(types)
    }
    return columns, at
