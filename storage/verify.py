"""Check a dataset against its checksums: quick (everything is there) or full (every byte of every shard)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from . import layout
from .arrays import chunk_checksum, decode_chunk
from .documents import parse_document
from .errors import FpipeError, IntegrityError, StaleSnapshotError
from .group import STATUS
from .lease import read_lease
from .passes import PassStore, stored_passes
from .plan import read_plan
from .planes import PlanesStore, list_fits
from .records import Problem, Status
from .sharded import ShardedStore
from .shards import ObjectRecord, ShardTail, unpack_tail
from .shared import list_shared_versions, read_shared_meta
from .store import Store
from .views import ViewsStore


def verify(store: Store, full: bool) -> list[Problem]:
    """Check a dataset; damage is returned, not raised.

    Args:
        store: The dataset.
        full: Read every byte of every shard and compare derived arrays with sidecars, instead of only
            the end of each shard file.

    Raises:
        UsageError: there is no dataset.
        SchemaError: it was written by another major version.
        TransientError: the store does not answer.
    """
    try:
        for _ in read_plan(store).rows:
            pass
    except IntegrityError as error:
        return [_problem(error)]
    found = list(_check_shared(store, full))
    try:
        read_lease(store)
    except IntegrityError as error:
        found.append(_problem(error))
    if store.exists(layout.zarr_metadata(layout.VIEWS_GROUP)):
        found += _check_group(store, ViewsStore.open, full)
    for name in stored_passes(store):
        found += _check_group(store, partial(PassStore.open, name=name), full)
    for name in list_fits(store):
        found += _check_group(store, partial(PlanesStore.open, name=name), full)
    return found


def _check_group(store: Store, open_group: Callable[[Store], ShardedStore], full: bool) -> list[Problem]:
    try:
        group = open_group(store)
        group.journal()
    except FpipeError as error:
        return [_problem(error)]
    found: list[Problem] = []
    for shard in sorted(group.done()):
        if shard >= group.n_shards:
            found.append(
                Problem(group.marker_key(shard), "", "marker of a shard that the plan does not have")
            )
            continue
        found += _check_shard(group, shard, full)
    return found


def _check_shard(group: ShardedStore, shard: int, full: bool) -> Iterator[Problem]:
    key = group.spec.shard_key(shard)
    try:
        tail = group.tail(shard)
        marker = parse_document(group.store.read(group.marker_key(shard)), group.marker_key(shard))
    except FileNotFoundError:
        yield Problem(key, "", "missing although it is marked as done")
        return
    except (IntegrityError, StaleSnapshotError) as error:
        yield _problem(error, key)
        return
    if marker["attempt"] != tail.sidecar.attempt:
        found = f"attempt {tail.sidecar.attempt}, but its marker says {marker['attempt']}"
        hint = ": its replacement is under way, or fpipe retry must finish it"
        yield Problem(key, "", found + (hint if shard in group.journal().open else ""))
    yield from _check_rows(group, shard, tail)
    if full:
        yield from _check_chunks(group, shard)
        yield from _check_derived(group, shard, tail)


def _check_rows(group: ShardedStore, shard: int, tail: ShardTail) -> Iterator[Problem]:
    rows = group.shard_rows(shard)
    expected = [(row.row, row.object_id) for row in group.plan.rows[rows.start : rows.stop]]
    if [(record.row, record.object_id) for record in tail.sidecar.objects] != expected:
        yield Problem(group.spec.shard_key(shard), "", "its objects are not those of the plan")


def _check_chunks(group: ShardedStore, shard: int) -> Iterator[Problem]:
    """Read one shard file whole and check every chunk; the tail has its own checksums."""
    key, per_object = group.spec.shard_key(shard), group.spec.chunks_per_object
    data = group.store.read(key)
    tail = unpack_tail(data, group.spec.chunks_per_shard, key)
    end = 0
    for position, record in enumerate(tail.sidecar.objects):
        places = tail.index[position * per_object : (position + 1) * per_object].astype(np.int64).tolist()
        if record.status != Status.OK:
            if any(offset != -1 for offset, _ in places):
                yield Problem(key, record.object_id, "has data, although it is not ok")
            continue
        for number, (offset, size) in enumerate(places):
            yield from _check_chunk(group, data[offset : offset + size], key, record, number)
            if offset != end:
                yield Problem(key, record.object_id, f"chunk {number} is not where it should be")
            end = offset + size
    if end != len(data) - tail.n_bytes:
        yield Problem(key, "", "bytes between chunks and sidecar that nothing accounts for")


def _check_chunk(
    group: ShardedStore, data: bytes, key: str, record: ObjectRecord, number: int
) -> Iterator[Problem]:
    assert group.spec.payload is not None
    try:
        decode_chunk(data, group.spec.payload, key, record.object_id)
    except IntegrityError as error:
        yield _problem(error)
        return
    if chunk_checksum(data) != record.crc32c[number]:
        yield Problem(key, record.object_id, f"chunk {number} is not the one that the sidecar lists")


def _check_derived(group: ShardedStore, shard: int, tail: ShardTail) -> Iterator[Problem]:
    for spec in group.spec.derived:
        key = layout.zarr_chunk(group.spec.group, spec.name, shard, len(spec.shape))
        truth = tail.sidecar.status if spec.name == STATUS else tail.sidecar.arrays[spec.name]
        try:
            stored = group.derived_chunk(spec, shard)[: len(truth)]
        except IntegrityError as error:
            yield _problem(error)
            continue
        if stored.tobytes() != truth.tobytes():
            yield Problem(key, "", "differs from the sidecars; publish the shard again")


def _check_shared(store: Store, full: bool) -> Iterator[Problem]:
    """Check the files that each `shared.json` lists: their SHA-256, or only that they are there."""
    for version in list_shared_versions(store):
        try:
            files: dict[str, str] = read_shared_meta(store, version).get("files", {})
        except IntegrityError as error:
            yield _problem(error)
            continue
        for name, digest in files.items():
            key = layout.shared_key(version, name)
            if not store.exists(key):
                yield Problem(key, "", "missing")
            elif full and hashlib.sha256(store.read(key)).hexdigest() != digest:
                yield Problem(key, "", "content differs from what shared.json lists")


def _problem(error: FpipeError, key: str = "") -> Problem:
    return Problem(getattr(error, "key", key), getattr(error, "object_id", ""), str(error))
