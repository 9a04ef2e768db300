"""What follows from the sidecar of a shard: its chunks of the derived arrays, and its done marker."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from .arrays import ArraySpec, encode_chunk
from .documents import SCHEMA_VERSION, dump_document
from .group import STATUS, GroupSpec
from .layout import zarr_chunk
from .records import Status
from .shards import Sidecar


def derived_key(spec: GroupSpec, array: ArraySpec, shard: int) -> str:
    """Key of the chunk of a derived array that belongs to one shard."""
    return zarr_chunk(spec.group, array.name, shard, len(array.shape))


def marker_key(spec: GroupSpec, shard: int) -> str:
    """Key of the done marker of one shard."""
    return f"{spec.done}/{shard}"


def published_keys(spec: GroupSpec, shard: int) -> list[str]:
    """Keys of the derived arrays of one shard, then of its marker."""
    return [*(derived_key(spec, array, shard) for array in spec.derived), marker_key(spec, shard)]


def published_files(spec: GroupSpec, sidecar: Sidecar) -> dict[str, bytes]:
    """Return what lies under `published_keys`, in that order, by the shard's sidecar."""
    files = {}
    for array in spec.derived:
        values = array.filled(array.chunk[0])
        known = sidecar_values(sidecar, array)
        values[: len(known)] = known
        files[derived_key(spec, array, sidecar.shard)] = encode_chunk(values, array)
    counts = {status.name.lower(): int((sidecar.status == status).sum()) for status in Status}
    marker = {
        "schema_version": SCHEMA_VERSION,
        "shard": sidecar.shard,
        "attempt": sidecar.attempt,
        "generation": sidecar.generation,
        **counts,
    }
    return {**files, marker_key(spec, sidecar.shard): dump_document(marker)}


def sidecar_values(sidecar: Sidecar, spec: ArraySpec) -> NDArray[Any]:
    """Return what a derived array holds for the rows of one shard, by its sidecar."""
    return sidecar.status if spec.name == STATUS else sidecar.arrays[spec.name]
