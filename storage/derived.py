"""Reads derived arrays: what the sidecars of done shards say, one value per row of the dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from .arrays import ArraySpec, decode_chunk, encoded_bytes
from .errors import IntegrityError, StaleSnapshotError
from .journal import read_journal
from .parallel import in_parts
from .publication import derived_key, sidecar_values
from .snapshot import MEND

if TYPE_CHECKING:  # it reads with what is defined here
    from .sharded import ShardedStore

CHUNKS_AT_A_TIME = 1024  # small, and their reads wait together


def fill_rows(group: ShardedStore, values: NDArray[Any], spec: ArraySpec, shards: Sequence[int]) -> None:
    """Put a derived array's values of some done shards where they belong.

    Args:
        group: The group.
        values: The array in full, [N, ...]; written to.
        spec: Definition of the array.
        shards: The shards; those that are being replaced are read from their sidecars.

    Raises:
        IntegrityError: A chunk is missing or damaged.
        StaleSnapshotError: Shards are being replaced, and were not when the snapshot began.
    """
    journal = group.journal()
    for shard in journal.open.intersection(shards):
        rows = group.shard_rows(shard)
        values[rows.start : rows.stop] = sidecar_values(group.sidecar(shard), spec)
    sound = [shard for shard in shards if shard not in journal.open]
    for part in in_parts(sound, CHUNKS_AT_A_TIME):
        for shard, known in read_chunks(group, spec, part).items():
            start = shard * group.spec.objects_per_shard
            values[start : start + len(known)] = known[: len(values) - start]
    if read_journal(group.store, group.spec.group).generation != journal.generation:
        raise StaleSnapshotError(f"{group.spec.group}: shards are being replaced; {MEND}")


def read_chunks(group: ShardedStore, spec: ArraySpec, shards: Sequence[int]) -> dict[int, NDArray[Any]]:
    """Return the stored chunks of a derived array by shard, read at the same time; see `fill_rows`."""
    keys = [derived_key(group.spec, spec, shard) for shard in shards]
    n_bytes = encoded_bytes(spec) + 1  # one more, or bytes before the chunk would go unnoticed
    found = {}
    for shard, key, data in zip(shards, keys, group.store.read_tails(keys, n_bytes), strict=True):
        if isinstance(data, FileNotFoundError):
            raise IntegrityError(f"{key}: missing although shard {shard} is done", key=key) from data
        if isinstance(data, Exception):
            raise data
        found[shard] = decode_chunk(data, spec, key)
    return found
