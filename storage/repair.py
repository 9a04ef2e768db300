"""Mend a damaged group without computing: rebuild what follows from sound files, give up what does not.

A derived array, a marker and the metadata of an array follow from files that are sound. An object whose bytes
are damaged is recorded as failed, with the class `DAMAGED`, so that a retry computes it again like any other
failed object. The shard is replaced whole, as `replacement` says: the other objects keep their bytes, and the
damaged file stays under `quarantine/`. Where the sidecar is damaged, nothing says which bytes belong to whom:
all objects of the shard are given up.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection

from . import layout
from .arrays import chunk_checksum, decode_chunk
from .builder import ShardBuilder
from .errors import IntegrityError, SchemaError, StaleSnapshotError
from .lease import check_lease
from .passes import PASSES, PassStore
from .planes import PlanesStore
from .records import Failure, Status
from .replacement import Round, read_shard, rework_shard
from .sharded import ShardedStore
from .shards import ObjectRecord, ShardFile, read_shard_tail
from .store import Store
from .views import ViewsStore

DAMAGED = "damaged"
"""Failure class of objects whose stored bytes were damaged."""


def open_group(store: Store, group: str) -> ViewsStore | PassStore | PlanesStore:
    """Open views, a pass or a fit by the key of its Zarr group; raises what their `open` raises."""
    if group == layout.VIEWS_GROUP:
        return ViewsStore.open(store)
    for name in PASSES:
        if group == layout.pass_group(name):
            return PassStore.open(store, name)
    return PlanesStore.open(store, layout.fit_of_group(group))


def publish_again(group: ShardedStore, shards: Collection[int], token: str) -> None:
    """Write derived arrays and markers of shards anew from their sidecars.

    Raises:
        LeaseLostError: the caller does not hold the lease.
    """
    for shard in sorted(shards):
        check_lease(group.store, token)
        group.publish(shard, overwrite=True)
    group.refresh()


def give_up_damaged(group: ViewsStore | PlanesStore, shard: int, current: Round) -> list[str]:
    """Replace a damaged shard by one in which every damaged object is recorded as failed.

    Args:
        group: The group.
        shard: One of those that the round may replace.
        current: The open round.

    Returns:
        Ids of the objects that were given up; objects that had failed before are only among them where the
        sidecar is damaged.

    Raises:
        LeaseLostError, StaleSnapshotError, TransientError: see `replacement.replace_shard`.
    """
    given_up: list[str] = []
    with group.builder(shard, f"repair-{secrets.token_hex(6)}") as builder:
        if not _has_sidecar(group, shard):
            return _give_up_all(group, builder, current)

        def drop(old: ShardFile) -> dict[str, object]:
            for position, record in enumerate(old.tail.sidecar.objects):
                if record.status == Status.OK and not _is_sound(group, old, position, record):
                    builder.reopen(record.row)
                    builder.fail(record.row, _failure(old.key))
                    given_up.append(record.object_id)
            return {**old.tail.sidecar.info, "repaired": {"given_up": len(given_up)}}

        rework_shard(group, builder, current, drop)
    return given_up


def _failure(key: str) -> Failure:
    return Failure(DAMAGED, f"stored bytes were damaged in {key}; the file is kept under quarantine/")


def _has_sidecar(group: ShardedStore, shard: int) -> bool:
    """Say whether the sidecar of a shard is sound, and that of this shard."""
    try:
        sidecar = read_shard(group, shard).tail.sidecar
    except (FileNotFoundError, IntegrityError, SchemaError):
        return False
    rows = group.shard_rows(shard)
    planned = [(row.row, row.object_id) for row in group.plan.rows[rows.start : rows.stop]]
    found = (sidecar.kind, sidecar.shard, sidecar.config_hash)
    return found == (group.spec.kind, shard, group.spec.config_hash) and planned == [
        (record.row, record.object_id) for record in sidecar.objects if record.object_id
    ]


def _is_sound(group: ShardedStore, file: ShardFile, position: int, record: ObjectRecord) -> bool:
    if group.spec.payload is None:
        return True
    chunks = file.chunks(position, group.spec.chunks_per_object)
    try:
        for chunk in chunks:
            decode_chunk(chunk, group.spec.payload, file.key, record.object_id)
    except IntegrityError:
        return False
    return tuple(map(chunk_checksum, chunks)) == record.crc32c


def _give_up_all(group: ShardedStore, builder: ShardBuilder, current: Round) -> list[str]:
    """Put a shard in which nothing has a result in the place of one that has no readable sidecar."""
    store, key = group.store, group.spec.shard_key(builder.shard)
    for row in builder.missing_rows:
        builder.fail(row, _failure(key))
    data = builder.pack({"repaired": {"given_up": len(builder.records)}}, current.generation)
    try:
        version = store.version(key)
        old = store.read(key)
    except FileNotFoundError:
        check_lease(store, current.token)
        store.create(key, data)
    else:
        digest = hashlib.sha256(old).hexdigest()[:16]
        store.create(layout.quarantined(key, f"{DAMAGED}-{digest}"), old)
        check_lease(store, current.token)
        store.swap(key, data, version)
    if read_shard_tail(store, key, group.spec.chunks_per_shard).sidecar.attempt != builder.attempt:
        raise StaleSnapshotError(
            f"{key}: somebody else has replaced the shard since it was verified, so it was left as it is;"
            " run fpipe verify again"
        )
    check_lease(store, current.token)
    group.publish(builder.shard, overwrite=True)
    group.refresh()
    return [record.object_id for record in builder.records]
