"""Zarr arrays as this package uses them: their metadata, and chunks encoded as Zarr's codecs would.

zarr itself writes the metadata (in memory, committed by us) and is the public way to read; chunk bytes are
made here: codec `bytes` (little-endian), then optionally zstd, then crc32c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .documents import crc32c
from .errors import IntegrityError

_CRC = struct.Struct("<I")
CRC_BYTES = _CRC.size


@dataclass(frozen=True)
class ArraySpec:
    """One array of a Zarr group.

    Attributes:
        name: Name in the group.
        shape: Full shape, first axis = rows of the plan.
        chunk: Read unit.
        dtype: numpy dtype string, little-endian.
        fill: Value where nothing is stored.
        dimensions: Name of each axis.
        shard: Write unit of a sharded array; None for arrays of plain chunks.
        zstd_level: Compression level; None for uncompressed.
        attributes: Zarr attributes.
    """

    name: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: str
    fill: float | bool
    dimensions: tuple[str, ...]
    shard: tuple[int, ...] | None = None
    zstd_level: int | None = None
    attributes: dict[str, Any] = field(default_factory=dict)

    def filled(self, n_rows: int) -> NDArray[Any]:
        """Return `n_rows` rows of fill value."""
        return np.full((n_rows, *self.shape[1:]), self.fill, self.dtype)

    def chunks_per_row(self) -> int:
        """Number of chunks that hold one row (chunks have one row each in sharded arrays)."""
        return int(np.prod([-(-n // c) for n, c in zip(self.shape[1:], self.chunk[1:], strict=True)]))


def encode_chunk(values: NDArray[Any], spec: ArraySpec) -> bytes:
    """Encode one chunk of exactly the chunk's shape."""
    if values.shape != spec.chunk:
        raise ValueError(f"{spec.name}: chunk of shape {values.shape}, expected {spec.chunk}")
    data = np.ascontiguousarray(values, spec.dtype).tobytes()
    if spec.zstd_level is not None:
        from numcodecs.zstd import Zstd

        data = bytes(Zstd(level=spec.zstd_level).encode(data))
    return data + _CRC.pack(crc32c(data))


def encoded_bytes(spec: ArraySpec) -> int:
    """Size of an encoded chunk of an uncompressed array."""
    assert spec.zstd_level is None
    return np.dtype(spec.dtype).itemsize * int(np.prod(spec.chunk)) + _CRC.size


def decode_chunk(data: bytes, spec: ArraySpec, key: str, object_id: str = "") -> NDArray[Any]:
    """Decode one chunk and check it; the result is read-only where nothing was compressed.

    Raises:
        IntegrityError: checksum or size is wrong; names key and object.
    """
    body = memoryview(data)[: -_CRC.size]
    where = f"{key}: {spec.name}" + (f" of object {object_id}" if object_id else "")
    if len(data) < _CRC.size or crc32c(body) != chunk_checksum(data):
        raise IntegrityError(f"{where}: checksum mismatch", key=key, object_id=object_id)
    if spec.zstd_level is not None:
        from numcodecs.zstd import Zstd

        body = memoryview(Zstd().decode(body))
    if len(body) != np.dtype(spec.dtype).itemsize * int(np.prod(spec.chunk)):
        raise IntegrityError(f"{where}: {len(body)} bytes is not one chunk", key=key, object_id=object_id)
    return np.frombuffer(body, spec.dtype).reshape(spec.chunk)


def chunk_checksum(data: bytes) -> int:
    """Return the crc32c that ends an encoded chunk."""
    return int(_CRC.unpack(data[-_CRC.size :])[0])


def array_metadata(specs: tuple[ArraySpec, ...]) -> dict[str, bytes]:
    """Return array name -> bytes of its `zarr.json`."""
    import zarr
    from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec
    from zarr.storage import MemoryStore

    memory: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(memory))
    for spec in specs:
        compressed = [] if spec.zstd_level is None else [ZstdCodec(level=spec.zstd_level)]
        one_byte = np.dtype(spec.dtype).itemsize == 1
        group.create_array(
            spec.name,
            shape=spec.shape,
            chunks=spec.chunk,
            shards=spec.shard,
            dtype=np.dtype(spec.dtype),
            fill_value=spec.fill,
            filters=None,
            compressors=[*compressed, Crc32cCodec()],
            serializer=BytesCodec(endian=None if one_byte else "little"),
            chunk_key_encoding={"name": "default", "separator": "."},
            dimension_names=spec.dimensions,
            attributes=spec.attributes,
        )
    return {spec.name: memory[f"{spec.name}/zarr.json"].to_bytes() for spec in specs}
