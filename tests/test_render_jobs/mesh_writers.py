"""Writers of PLY, STL and glTF for tests, independent of the readers."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import numpy as np

Triangles = np.ndarray
ORDER = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


def ply(
    vertices: np.ndarray,
    faces: list[Any],
    colours: np.ndarray | None = None,
    form: str = "binary_little_endian",
) -> bytes:
    """Vertices [n, 3], faces of any sizes, colours u8 [n, 3] or [n, 4]."""
    channels = ["red", "green", "blue", "alpha"][: 0 if colours is None else colours.shape[1]]
    header = [
        *("ply", f"format {form} 1.0", "comment made by a test", f"element vertex {len(vertices)}"),
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {channel}" for channel in channels),
        *(f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header\n"),
    ]
    body = b""
    for i, vertex in enumerate(vertices):
        colour = [] if colours is None else colours[i].tolist()
        if form == "ascii":
            body += " ".join(map(str, [*vertex.tolist(), *colour])).encode() + b"\n"
        else:
            body += struct.pack(f"{ORDER[form]}3f{len(colour)}B", *vertex, *colour)
    for face in faces:
        if form == "ascii":
            body += " ".join(map(str, [len(face), *face])).encode() + b"\n"
        else:
            body += struct.pack(f"{ORDER[form]}B{len(face)}i", len(face), *face)
    return "\n".join(header).encode() + body


def stl(triangles: Triangles) -> bytes:
    """Triangles [t, 3, 3]; the header starts like a text file's, as many exporters' do."""
    body = b"".join(struct.pack("<12fH", 0, 0, 0, *t.ravel(), 0) for t in triangles)
    return b"solid but binary".ljust(80) + struct.pack("<I", len(triangles)) + body


def stl_text(triangles: Triangles) -> bytes:
    text = "solid test\n"
    for triangle in triangles:
        text += " facet normal 0 0 0\n  outer loop\n"
        text += "".join("   vertex {} {} {}\n".format(*corner) for corner in triangle)
        text += "  endloop\n endfacet\n"
    return (text + "endsolid test\n").encode()


class Gltf:
    """Builds a glTF document with one buffer."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": []}]}
        self.binary = b""

    def add(self, key: str, **entry: Any) -> int:
        self.document.setdefault(key, []).append(entry)
        return len(self.document[key]) - 1

    def view(self, data: bytes, **more: Any) -> int:
        self.binary += b"\0" * (-len(self.binary) % 4)
        start, self.binary = len(self.binary), self.binary + data
        return self.add("bufferViews", buffer=0, byteOffset=start, byteLength=len(data), **more)

    def accessor(self, values: np.ndarray, **more: Any) -> int:
        """Values [n] or [n, width] of a dtype that glTF has."""
        codes = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
        width = (
            "SCALAR" if values.ndim == 1 else {2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}[values.shape[1]]
        )
        return self.add(
            "accessors",
            bufferView=self.view(values.tobytes()),
            componentType=codes[values.dtype.str[1:]],
            count=len(values),
            type=width,
            **more,
        )

    def mesh(self, positions: np.ndarray, indices: np.ndarray | None = None, **more: Any) -> int:
        """One primitive; `more` are attributes as arrays, `material` or `mode`."""
        attributes = {"POSITION": self.accessor(positions.astype("<f4"))}
        attributes |= {k: self.accessor(v) for k, v in more.items() if isinstance(v, np.ndarray)}
        primitive: dict[str, Any] = {k: v for k, v in more.items() if not isinstance(v, np.ndarray)}
        if indices is not None:
            primitive["indices"] = self.accessor(indices.astype("<u4"))
        return self.add("meshes", primitives=[{"attributes": attributes, **primitive}])

    def node(self, root: bool = True, **entry: Any) -> int:
        index = self.add("nodes", **entry)
        if root:
            self.document["scenes"][0]["nodes"].append(index)
        return index

    def glb(self) -> bytes:
        self.document["buffers"] = [{"byteLength": len(self.binary)}]
        text = json.dumps(self.document).encode()
        text += b" " * (-len(text) % 4)
        binary = self.binary + b"\0" * (-len(self.binary) % 4)
        chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
        chunks += struct.pack("<II", len(binary), 0x004E4942) + binary
        return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks

    def gltf(self, uri: str | None = None) -> bytes:
        """With the buffer inside, or under a URI."""
        inline = "data:application/octet-stream;base64," + base64.b64encode(self.binary).decode()
        self.document["buffers"] = [{"byteLength": len(self.binary), "uri": uri or inline}]
        return json.dumps(self.document).encode()


def square_gltf(**material: Any) -> Gltf:
    """A textured or plain unit square in the x-z plane (y up), texture upright as seen from above."""
    built = Gltf()
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 0, -1], [0, 0, -1]], dtype="<f4")
    uvs = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], dtype="<f4")
    if material:
        built.add("materials", **material)
    more: dict[str, Any] = {"material": 0} if material else {}
    built.node(mesh=built.mesh(corners, np.array([0, 1, 2, 0, 2, 3]), TEXCOORD_0=uvs, **more))
    return built
