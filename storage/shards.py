"""The shard file: chunk bytes, sidecar, Zarr shard index; packing, unpacking and committing it.

Layout, front to back:

    chunks       encoded chunks of all objects in row order, no gaps; each ends with its crc32c
    statistics   of the channels of planes (see `sketch`), if any; the json says where and its crc32c
    arrays       sidecar arrays, raw little-endian, one after the other
    json         sidecar text: per-object status, failures, checksums, and where each array lies
    footer       magic and major version (8) · length of arrays (u64) · of json (u64) · crc32c so far (u32)
    index        Zarr v3 shard index: (offset u64, nbytes u64) per chunk, 2^64-1 when absent; crc32c (u32)

The index does not point at the sidecar, so the file is a plain Zarr v3 shard. A shard without chunks
(fits without micro planes) ends with the footer. The statistics lie before the sidecar, not in it: they are
as large as the first read of a tail (80-100 KB at 32 channels), and only who merges them needs them.
Files before 1.1 have none.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .documents import SCHEMA_VERSION, canonical_json, check_schema, crc32c
from .errors import IntegrityError, TransientError
from .records import Commit, Failure, Status
from .retries import retried
from .store import Store

SHARD_SCHEMA_VERSION = "1.1"
MAGIC = b"FPSHARD" + bytes([int(SCHEMA_VERSION.split(".")[0])])
_FOOTER = struct.Struct("<8sQQI")
_CRC = struct.Struct("<I")
MISSING = 2**64 - 1
TAIL_BYTES = 128 * 1024  # first guess for one suffix read; most sidecars fit


@dataclass(frozen=True)
class ObjectRecord:
    """What a sidecar says about one row.

    Attributes:
        row: Row of the plan.
        object_id: The object.
        status: Whether there is data.
        failure: Why there is none.
        info: Timings and the like, JSON values.
        crc32c: Checksum of each of the object's chunks, in order.
    """

    row: int
    object_id: str
    status: Status
    failure: Failure | None = None
    info: dict[str, Any] = field(default_factory=dict)
    crc32c: tuple[int, ...] = ()


@dataclass(frozen=True)
class Block:
    """Where a part of a shard file lies.

    Attributes:
        offset: First byte.
        n_bytes: Size.
        crc32c: Checksum.
    """

    offset: int
    n_bytes: int
    crc32c: int

    def checked(self, data: bytes, key: str) -> bytes:
        """Return the block's bytes if they are the ones that were written; raises IntegrityError."""
        if len(data) != self.n_bytes or crc32c(data) != self.crc32c:
            raise IntegrityError(f"{key}: channel statistics: checksum mismatch", key=key)
        return data


@dataclass(frozen=True)
class Sidecar:
    """The truth about one shard.

    Attributes:
        kind: "views" or "planes".
        shard: Number of the shard.
        attempt: Id of the attempt that wrote it.
        config_hash: Hash of the configuration that produced it.
        objects: One record per row of the shard, in row order.
        arrays: Per-object values, first axis = rows of this shard.
        info: About the shard as a whole: timings, host.
        generation: 0 for the first commit, else the number of the round of replacements that wrote it (see
            `journal`): it grows with every replacement.
        schema_version: "major.minor" of this form.
        statistics: Where the shard's channel statistics lie; None where it has none.
    """

    kind: str
    shard: int
    attempt: str
    config_hash: str
    objects: tuple[ObjectRecord, ...]
    arrays: dict[str, NDArray[Any]]
    info: dict[str, Any] = field(default_factory=dict)
    generation: int = 0
    schema_version: str = SHARD_SCHEMA_VERSION
    statistics: Block | None = None

    @property
    def status(self) -> NDArray[np.uint8]:
        """Status of each row, u8 [rows]."""
        return np.array([record.status for record in self.objects], np.uint8)


@dataclass(frozen=True)
class ShardTail:
    """Sidecar and index of one shard file.

    Attributes:
        sidecar: The sidecar.
        index: u64 [n_chunks, 2], offset and size of every chunk, both 2^64-1 when absent.
        n_bytes: Bytes from the start of the sidecar to the end of the file.
    """

    sidecar: Sidecar
    index: NDArray[np.uint64]
    n_bytes: int


@dataclass(frozen=True)
class ShardFile:
    """One whole shard file, as it was at one moment.

    Attributes:
        key: Its key.
        version: For `Store.swap`.
        data: Its bytes.
        tail: Its sidecar and index.
    """

    key: str
    version: str
    data: bytes
    tail: ShardTail

    @classmethod
    def read(cls, store: Store, key: str, n_chunks: int) -> ShardFile:
        """Read a shard; raises FileNotFoundError when there is none, IntegrityError when it is damaged."""
        version = store.version(key)  # before the bytes: if they change in between, the swap will fail
        data = store.read(key)
        try:
            tail = unpack_tail(data, n_chunks, key)
        except TailTooShort as error:
            raise IntegrityError(f"{key}: sidecar is longer than the file", key=key) from error
        return cls(key, version, data, tail)

    def chunks(self, position: int, per_object: int) -> list[bytes]:
        """Return the encoded chunks of the object at one position of the shard."""
        places = self.tail.index[position * per_object : (position + 1) * per_object].astype(np.int64)
        return [self.data[offset : offset + size] for offset, size in places.tolist()]


class TailTooShort(Exception):  # noqa: N818 - a signal between two functions, not an error
    """The suffix that was read does not hold the whole sidecar."""

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed


def pack_shard(
    sidecar: Sidecar,
    chunks: Sequence[Sequence[bytes]],
    chunks_per_object: int,
    slots: int,
    statistics: bytes = b"",
) -> bytes:
    """Build the shard file.

    Args:
        sidecar: Its `objects` are the rows of this shard.
        chunks: Encoded chunks per row of the shard; empty for rows without data.
        chunks_per_object: Chunks of one object, 0 when there is no chunked array.
        slots: Objects that a full shard holds; the last shard of a dataset may have fewer rows.
        statistics: Encoded channel statistics of the shard, empty for none.
    """
    index = np.full((slots * chunks_per_object, 2), MISSING, "<u8")
    offset = 0
    for position, parts in enumerate(chunks):
        for number, part in enumerate(parts):
            index[position * chunks_per_object + number] = offset, len(part)
            offset += len(part)
    payload = [part for parts in chunks for part in parts]
    if statistics:
        payload.append(statistics)
        sidecar = replace(sidecar, statistics=Block(offset, len(statistics), crc32c(statistics)))
    return b"".join([*payload, _pack_sidecar(sidecar), *([_with_crc(index.tobytes())] if len(index) else [])])


def index_bytes(n_chunks: int) -> int:
    """Size of the Zarr index of a shard of `n_chunks` chunks."""
    return 16 * n_chunks + _CRC.size if n_chunks else 0


def read_shard_tail(store: Store, key: str, n_chunks: int, guess: int = TAIL_BYTES) -> ShardTail:
    """Read sidecar and index, in one suffix read when the guess suffices.

    Raises:
        FileNotFoundError: the shard is not there.
        IntegrityError: damaged.
        SchemaError: written by another major version.
    """
    while True:
        tail = store.read_tail(key, guess)
        try:
            return unpack_tail(tail, n_chunks, key)
        except TailTooShort as short:
            if len(tail) < guess:
                raise IntegrityError(f"{key}: sidecar is longer than the file", key=key) from None
            guess = short.needed


def unpack_tail(tail: bytes, n_chunks: int, key: str) -> ShardTail:
    """Decode the end of a shard file; raises TailTooShort when `tail` starts too late."""
    n_index = index_bytes(n_chunks)
    end = len(tail) - n_index
    if end < _FOOTER.size:
        raise TailTooShort(n_index + _FOOTER.size)
    magic, n_arrays, n_json, checksum = _FOOTER.unpack_from(tail, end - _FOOTER.size)
    if magic[:7] == MAGIC[:7]:
        check_schema(f"{magic[7]}.0", key)
    if magic != MAGIC:
        raise IntegrityError(f"{key}: no sidecar where it should be; file torn or damaged", key=key)
    start = end - _FOOTER.size - n_json - n_arrays
    if start < 0:
        raise TailTooShort(n_index + _FOOTER.size + n_json + n_arrays)
    if crc32c(tail[start : end - _CRC.size]) != checksum:
        raise IntegrityError(f"{key}: sidecar checksum mismatch", key=key)
    index = _unpack_index(tail[end:], n_chunks, key)
    middle, stop = start + n_arrays, end - _FOOTER.size
    sidecar = _unpack_sidecar(tail[start:middle], tail[middle:stop], key)
    return ShardTail(sidecar, index, len(tail) - start)


def commit_shard(store: Store, key: str, data: bytes, attempt: str, n_chunks: int) -> Commit:
    """Commit a shard file with one create-only write and learn who won.

    On "exists" and on unknown outcomes (timeouts) the sidecar is read back: if it carries `attempt`, this
    writer won, even if it never got its answer.

    Raises:
        TransientError: the store kept failing; nothing or the whole shard was written.
    """
    return retried(lambda: _commit(store, key, data, attempt, n_chunks))


def _commit(store: Store, key: str, data: bytes, attempt: str, n_chunks: int) -> Commit:
    try:
        if store.create(key, data):
            return Commit(True, attempt, len(data))
        unknown = None
    except TransientError as error:
        unknown = error
    try:
        winner = read_shard_tail(store, key, n_chunks).sidecar.attempt
    except (FileNotFoundError, TransientError) as error:
        raise TransientError(f"{key}: commit failed: {unknown or error}") from error
    return Commit(winner == attempt, winner, len(data))


def _with_crc(data: bytes) -> bytes:
    return data + _CRC.pack(crc32c(data))


def _pack_sidecar(sidecar: Sidecar) -> bytes:
    arrays = {name: np.ascontiguousarray(values) for name, values in sidecar.arrays.items()}
    text: dict[str, Any] = {
        **{name: getattr(sidecar, name) for name in ("schema_version", "kind", "shard", "attempt")},
        **{name: getattr(sidecar, name) for name in ("config_hash", "generation", "info")},
        "objects": [asdict(record) for record in sidecar.objects],
        "arrays": [[name, values.dtype.str, values.shape] for name, values in arrays.items()],
    }
    if sidecar.statistics is not None:
        text["statistics"] = asdict(sidecar.statistics)
    blob = b"".join(values.tobytes() for values in arrays.values())
    encoded = canonical_json(text)
    body = blob + encoded + _FOOTER.pack(MAGIC, len(blob), len(encoded), 0)[: -_CRC.size]
    return _with_crc(body)


def _unpack_sidecar(blob: bytes, encoded: bytes, key: str) -> Sidecar:
    text = json.loads(encoded)
    check_schema(text["schema_version"], key)
    arrays: dict[str, NDArray[Any]] = {}
    offset = 0
    for name, dtype, shape in text["arrays"]:
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(blob, dtype, count, offset).reshape(shape)
        offset += count * np.dtype(dtype).itemsize
    names = ("schema_version", "kind", "shard", "attempt", "config_hash", "generation", "info")
    objects = tuple(_object_record(entry) for entry in text["objects"])
    statistics = Block(**text["statistics"]) if "statistics" in text else None
    return Sidecar(
        objects=objects, arrays=arrays, statistics=statistics, **{name: text[name] for name in names}
    )


def _object_record(entry: dict[str, Any]) -> ObjectRecord:
    failure = Failure(**entry["failure"]) if entry["failure"] else None
    return ObjectRecord(
        entry["row"],
        entry["object_id"],
        Status(entry["status"]),
        failure,
        entry["info"],
        tuple(entry["crc32c"]),
    )


def _unpack_index(data: bytes, n_chunks: int, key: str) -> NDArray[np.uint64]:
    if not n_chunks:
        return np.empty((0, 2), np.uint64)
    if crc32c(data[: -_CRC.size]) != _CRC.unpack(data[-_CRC.size :])[0]:
        raise IntegrityError(f"{key}: shard index checksum mismatch", key=key)
    return np.frombuffer(data, "<u8", 2 * n_chunks).reshape(n_chunks, 2)
