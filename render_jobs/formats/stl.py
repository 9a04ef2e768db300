"""STL, binary and text. Colours in attribute bytes have no standard and are ignored."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from render_jobs.formats.geometry import Geometry, checked_corners, checked_vertices
from render_jobs.mesh_file import MeshError

Points = npt.NDArray[np.floating[Any]]

_HEADER_BYTES = 80
_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_MAX_NUMBER_BYTES = 256
_VERTEX = re.compile(rb"vertex\s+(\S+)\s+(\S+)\s+(\S+)", re.IGNORECASE)


def read_stl(content: bytes, name: str) -> Geometry:
    """Reads an STL file.

    Raises:
        MeshError: kinds truncated, not_a_mesh, bad_vertex, no_faces.
    """
    points = _binary(content, name) if _is_binary(content) else _text(content, name)
    vertices = checked_vertices(points, name)
    corners = checked_corners(np.arange(len(vertices)), len(vertices), name)
    return Geometry(vertices, corners, np.full(len(vertices) // 3, 3, dtype=np.int32))


def _is_binary(content: bytes) -> bool:
    """Many binary files start with "solid", too: the size decides, then zero bytes."""
    if len(content) >= _HEADER_BYTES + 4 and len(content) == _binary_size(content):
        return True
    return content.lstrip()[:5].lower() != b"solid" or b"\0" in content[:512]


def _binary_size(content: bytes) -> int:
    return _HEADER_BYTES + 4 + _FACET.itemsize * int.from_bytes(content[_HEADER_BYTES:][:4], "little")


def _binary(content: bytes, name: str) -> Points:
    if len(content) < _HEADER_BYTES + 4:
        raise MeshError("truncated", f"{name} ends within its header")
    n = int.from_bytes(content[_HEADER_BYTES:][:4], "little")
    if _binary_size(content) > len(content):
        text = all(32 <= byte < 127 or byte in b"\t\r\n" for byte in content[:84])
        kind = "not_a_mesh" if text else "truncated"
        raise MeshError(kind, f"{name} promises {n} triangles and has {len(content)} bytes")
    facets = np.frombuffer(content, _FACET, count=n, offset=_HEADER_BYTES + 4)
    points: Points = facets["corners"].reshape(-1, 3)
    return points


def _text(content: bytes, name: str) -> Points:
    found = _VERTEX.findall(content)
    longest = max((len(number) for vertex in found for number in vertex), default=1)
    try:
        if longest > _MAX_NUMBER_BYTES:
            raise ValueError(f"one has {longest} characters")
        points = np.array(found, dtype=f"S{longest}").astype(np.float64).reshape(-1, 3)
    except ValueError as error:
        raise MeshError("bad_vertex", f"{name}: not three finite coordinates: {error}") from error
    if len(points) % 3 != 0 or b"endsolid" not in content[-1024:].lower():
        raise MeshError("truncated", f"{name} ends before its endsolid")
    return points
