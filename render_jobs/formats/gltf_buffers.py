"""The bytes of a glTF file: container, buffers, accessors. Every length is checked before it is used.

glTF 2.0 specification, sections 3.6 (buffers, accessors) and 4 (GLB).
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import numpy.typing as npt

from render_jobs.mesh_file import FileLimits, MeshError, read_regular_file
from render_jobs.references import MeshFolder
from render_jobs.textures import display_name

Document = dict[str, Any]

_JSON_CHUNK, _BIN_CHUNK = 0x4E4F534A, 0x004E4942
_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


def parse_container(content: bytes, name: str) -> tuple[Document, bytes]:
    """Splits a .glb or .gltf file into its JSON document and its binary chunk.

    Raises:
        MeshError: kinds not_a_mesh, truncated.
    """
    text, binary = (content, b"") if content[:4] != b"glTF" else _chunks(content, name)
    try:
        document = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        cut = isinstance(error, json.JSONDecodeError) and error.pos >= len(error.doc.rstrip())
        kind = "truncated" if cut and text.lstrip()[:1] == b"{" else "not_a_mesh"
        raise MeshError(kind, f"{name} is no glTF: {error}") from error
    if not isinstance(document, dict) or "asset" not in document:
        raise MeshError("not_a_mesh", f"{name} is JSON but no glTF: it has no asset")
    return document, binary


def _chunks(content: bytes, name: str) -> tuple[bytes, bytes]:
    if len(content) < 20:
        raise MeshError("truncated", f"{name} ends within its header")
    _, version, length = struct.unpack_from("<4sII", content)
    if version != 2:
        raise MeshError("not_a_mesh", f"{name} is glTF version {version}; only version 2 is read")
    if length > len(content):
        raise MeshError("truncated", f"{name} promises {length} bytes and has {len(content)}")
    found: dict[int, bytes] = {}
    at = 12
    while at + 8 <= length:
        size, kind = struct.unpack_from("<II", content, at)
        if size > length - at - 8:
            raise MeshError("truncated", f"{name} promises a chunk of {size} bytes and ends before")
        found.setdefault(kind, content[at + 8 : at + 8 + size])
        at += 8 + size
    if _JSON_CHUNK not in found:
        raise MeshError("not_a_mesh", f"{name} has no JSON chunk")
    return found[_JSON_CHUNK], found.get(_BIN_CHUNK, b"")


def entry(document: Document, key: str, index: Any) -> Document:
    """Returns document[key][index].

    Raises:
        MeshError: kind bad_index.
    """
    entries = document.get(key, [])
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(entries):
        raise MeshError("bad_index", f"the glTF refers to {key}[{index}]; there are {len(entries)}")
    found = entries[index]
    if not isinstance(found, dict):
        raise MeshError("bad_structure", f"{key}[{index}] of the glTF is no object")
    return found


def data_uri(uri: str) -> bytes | None:
    """Returns the bytes within a data URI, None for any other URI.

    Raises:
        MeshError: kind bad_structure.
    """
    if not uri.startswith("data:"):
        return None
    head, _, body = uri.partition(",")
    if not head.endswith(";base64"):
        return unquote_to_bytes(body)
    try:
        return base64.b64decode(body, validate=False)
    except (binascii.Error, ValueError) as error:
        raise MeshError("bad_structure", "the glTF has a data URI that is no base64") from error


class Accessors:
    """Arrays of a glTF document.

    Args:
        document: The JSON document.
        binary: The binary chunk of a .glb file.
        around: The files around the mesh.
        limits: How many bytes all buffers may have together.
    """

    def __init__(self, document: Document, binary: bytes, around: MeshFolder, limits: FileLimits) -> None:
        self._document, self._binary = document, binary
        self._around = around
        self._left_bytes = self._limit = limits.mesh_bytes
        self._buffers: dict[int, bytes] = {}

    def read(self, index: Any) -> npt.NDArray[Any]:
        """Returns an accessor [count, width] as it is stored, sparse values filled in.

        Raises:
            MeshError: kinds bad_index, bad_structure, truncated, too_large, missing_file, unsafe_reference.
        """
        accessor = entry(self._document, "accessors", index)
        values = self._dense(accessor, index)
        if "sparse" in accessor:
            values = values.copy()
            sparse = accessor["sparse"]
            where, what = sparse["indices"], sparse["values"]
            n = _natural(sparse["count"])
            at = self._array(where, n, _COMPONENTS[where["componentType"]], 1, index)[:, 0]
            if n and at.max() >= len(values):
                raise MeshError(
                    "bad_index", f"accessor {index} of the glTF has a sparse index beyond its end"
                )
            values[at] = self._array(what, n, values.dtype.str, values.shape[1], index)
        return values

    def floats(self, index: Any) -> npt.NDArray[np.float64]:
        """Returns an accessor as numbers, normalised integers in [-1, 1] or [0, 1]; raises like `read`."""
        values = self.read(index)
        wide = values.astype(np.float64)
        if values.dtype.kind in "iu" and entry(self._document, "accessors", index).get("normalized", False):
            wide = np.maximum(wide / np.iinfo(values.dtype).max, -1.0)
        return wide

    def _dense(self, accessor: Document, index: int) -> npt.NDArray[Any]:
        n, width = _natural(accessor["count"]), _WIDTHS[accessor["type"]]
        component = _COMPONENTS[accessor["componentType"]]
        if "bufferView" in accessor:
            return self._array(accessor, n, component, width, index)
        if n * width * 4 > self._limit:
            raise MeshError("too_large", f"accessor {index} of the glTF promises {n} zeros")
        return np.zeros((n, width), dtype=component)

    def _array(self, place: Document, n: int, component: str, width: int, index: int) -> npt.NDArray[Any]:
        data, stride = self._view(place["bufferView"])
        offset, size = _natural(place.get("byteOffset", 0)), np.dtype(component).itemsize * width
        stride = stride or size
        if n == 0:
            return np.zeros((0, width), dtype=component)
        if stride < size or offset + stride * (n - 1) + size > len(data):
            reason = f"accessor {index} of the glTF has {n} elements; its buffer view ends before"
            raise MeshError("truncated", reason)
        itemsize = np.dtype(component).itemsize
        return np.ndarray((n, width), component, data, offset, (stride, itemsize))

    def view(self, index: Any) -> bytes:
        """Returns the bytes of a buffer view; raises like `read`."""
        return self._view(index)[0]

    def _view(self, index: Any) -> tuple[bytes, int]:
        view = entry(self._document, "bufferViews", index)
        data = self._buffer(view["buffer"])
        start, length = _natural(view.get("byteOffset", 0)), _natural(view["byteLength"])
        if start + length > len(data):
            raise MeshError("truncated", f"buffer view {index} of the glTF lies beyond the end of its buffer")
        return data[start : start + length], _natural(view.get("byteStride", 0))

    def _buffer(self, index: Any) -> bytes:
        buffer = entry(self._document, "buffers", index)
        if index not in self._buffers:
            length = _natural(buffer["byteLength"])
            data = self._load(buffer, index)
            if length > len(data):
                reason = f"buffer {index} of the glTF has {len(data)} bytes; {length} are promised"
                raise MeshError("truncated", reason)
            self._left_bytes -= length
            if self._left_bytes < 0:
                raise MeshError("too_large", f"the glTF's buffers have more than {self._limit} bytes")
            self._buffers[index] = data[:length]
        return self._buffers[index]

    def _load(self, buffer: Document, index: int) -> bytes:
        if "uri" not in buffer:
            if index == 0 and self._binary:
                return self._binary
            raise MeshError("truncated", f"buffer {index} of the glTF is nowhere")
        inline = data_uri(buffer["uri"])
        if inline is not None:
            return inline
        written = unquote_to_bytes(buffer["uri"])
        reference = self._around.find(written)
        if reference.path is None:
            kind = "unsafe_reference" if reference.unsafe else "missing_file"
            raise MeshError(kind, f"buffer {display_name(written)} of the glTF {reference.problem}")
        return read_regular_file(reference.path, self._left_bytes)


def _natural(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise MeshError("bad_structure", f"the glTF has {value!r} where a count or an offset belongs")
    return value
