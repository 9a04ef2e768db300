"""Replacing shards that are done: retries of failed objects, refits, repairs.

    1  the holder of the lease opens a round: the journal gets the next generation and the shards it may touch
    2  per shard: the old file is kept under `quarantine/`, the complete new one takes its place in one step
    3  derived arrays and marker follow
    4  the round is closed

Whatever dies in between, the next round finishes what it finds open. A reader of an older snapshot meets a
file of a later generation, or the journal's, and raises StaleSnapshotError; one that began during the round
reads open shards from their sidecars alone. A shard's key is never without a file, so a first writer that
stalled can never win. Nor can a replacement that was held back: closing a round writes those shards anew
whose replacement may still be on its way (see `_fence`), so it is refused when it arrives. Groups that belong
together are replaced in one round each, the images last.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from . import layout
from .builder import ShardBuilder
from .documents import parse_document
from .errors import IntegrityError, SchemaError, StaleSnapshotError, TransientError
from .journal import Journal, journal_version, read_journal, write_journal
from .lease import check_lease
from .sharded import ShardedStore
from .shards import ObjectRecord, ShardFile, read_shard_tail

LOGGER = logging.getLogger(__name__)

JOURNAL_ATTEMPTS = 5
FENCE = "fence-"
"""How the attempts of files begin that have their predecessor's content."""
FENCED = "fenced"
"""Entry of a shard's info: the attempt whose content it keeps, where the attempt is a fence."""


@dataclass(frozen=True)
class Round:
    """A round of replacements in one group, as its tasks need it; plain values.

    Attributes:
        token: Of the lease.
        generation: Of the files that it writes.
    """

    token: str
    generation: int


def open_round(group: ShardedStore, token: str, shards: Iterable[int], command: str = "") -> Round:
    """Begin to replace shards of a group, after finishing what an earlier round left behind.

    Args:
        group: The group; its snapshot is renewed.
        token: Of the lease, which the caller holds.
        shards: Those that may be replaced; all are done.
        command: What goes on with the round if it is interrupted.

    Raises:
        LeaseLostError: the caller does not hold the lease.
    """
    group.store.sweep()
    opened = frozenset(shards)
    for _ in range(JOURNAL_ATTEMPTS):
        closed = finish_round(group, token)
        version = journal_version(group.store, group.spec.group)
        found = read_journal(group.store, group.spec.group)
        check_lease(group.store, token)
        journal = Journal(closed.generation + 1, opened, command)
        if found == closed and write_journal(group.store, group.spec.group, journal, version):
            group.refresh()
            return Round(token, journal.generation)
    raise TransientError(f"{group.spec.group}: a round could not be opened, others write its journal")


def finish_round(group: ShardedStore, token: str) -> Journal:
    """Publish what was replaced but not published, and close the round; returns the closed journal."""
    for _ in range(JOURNAL_ATTEMPTS):
        version = journal_version(group.store, group.spec.group)
        found = read_journal(group.store, group.spec.group)
        closed = Journal(found.generation)
        for shard in sorted(found.open):
            check_lease(group.store, token)
            _finish_shard(group, shard, Round(token, found.generation))
        if found.open:
            check_lease(group.store, token)
        if not found.open or write_journal(group.store, group.spec.group, closed, version):
            group.refresh()
            return closed
    raise TransientError(f"{group.spec.group}: the round could not be closed, others write its journal")


def read_shard(group: ShardedStore, shard: int) -> ShardFile:
    """Read the present file of a shard, to build its replacement from."""
    return ShardFile.read(group.store, group.spec.shard_key(shard), group.spec.chunks_per_shard)


def redo_objects(
    group: ShardedStore,
    builder: ShardBuilder,
    current: Round,
    is_chosen: Callable[[ObjectRecord], bool],
    work: Callable[[list[int]], dict[str, Any]],
) -> list[int] | None:
    """Do some objects of a shard again and replace it, unless all of them end as they did before.

    Args:
        group: The group.
        builder: A fresh builder of the shard.
        current: The open round.
        is_chosen: Says which objects are done again.
        work: Gives the builder new results for these rows; returns what to note about it.

    Returns:
        The rows that were done again; None when this round has replaced the shard already.

    Raises:
        LeaseLostError, StaleSnapshotError, TransientError: See `replace_shard`.
    """
    rows: list[int] = []

    def redo(old: ShardFile) -> dict[str, Any] | None:
        rows.extend(record.row for record in old.tail.sidecar.objects if is_chosen(record))
        for row in rows:
            builder.reopen(row)
        note = work(rows) if rows else {}
        return None if _same_outcome(old, builder) else {**old.tail.sidecar.info, "redone": note}

    return rows if rework_shard(group, builder, current, redo) else None


def rework_shard(
    group: ShardedStore,
    builder: ShardBuilder,
    current: Round,
    work: Callable[[ShardFile], dict[str, Any] | None],
) -> bool:
    """Replace a shard by what becomes of its present file, once in a round.

    Args:
        group: The group.
        builder: A fresh builder of the shard; it takes over every object of the present file.
        current: The open round.
        work: Changes what the builder holds; returns the info about the new shard as a whole, or None to
            leave the present file where it is.

    Returns:
        False when this round has replaced the shard already, so that nothing was done.

    Raises:
        LeaseLostError, StaleSnapshotError, TransientError: See `replace_shard`.
    """
    old = read_shard(group, builder.shard)
    if _is_replaced(group, builder.shard, old, current):
        return False
    builder.keep_all(old)
    info = work(old)
    if info is not None:
        replace_shard(group, old, builder, current, info)
    return True


def replace_shard(
    group: ShardedStore,
    old: ShardFile,
    builder: ShardBuilder,
    current: Round,
    info: dict[str, Any] | None = None,
) -> None:
    """Put a builder's shard in the place of a file and publish it.

    Args:
        group: The group.
        old: The file that the builder started from.
        builder: Holds a result for every row.
        current: The open round.
        info: About the shard as a whole.

    Raises:
        LeaseLostError: somebody else may change the shards now; nothing was written.
        StaleSnapshotError: the file is no longer the one that the builder started from.
        TransientError: the store kept failing; calling again is safe.
    """
    store, n_chunks = group.store, group.spec.chunks_per_shard
    data = builder.pack(info, current.generation)
    store.create(layout.quarantined(old.key, old.tail.sidecar.attempt), old.data)
    check_lease(store, current.token)
    try:
        swapped = store.swap(old.key, data, old.version)
    except TransientError as error:
        LOGGER.warning("%s; looking whether the replacement arrived", error)
        swapped = False
    if not swapped:
        found = read_shard_tail(store, old.key, n_chunks).sidecar.attempt
        if found == old.tail.sidecar.attempt:
            raise TransientError(f"{old.key}: could not be replaced")
        if found != builder.attempt:
            raise StaleSnapshotError(
                f"{old.key}: attempt {found} was faster: somebody else has replaced the shard meanwhile, and"
                " this attempt was left out; the same command begins from what is there now"
            )
    check_lease(store, current.token)
    group.publish(builder.shard, overwrite=True)
    group.refresh()


def _finish_shard(group: ShardedStore, shard: int, current: Round) -> None:
    """Publish what was replaced but not published; passes over a file that cannot be read.

    Nothing can follow from such a file. It must not keep a round open, or the repair that gives it a
    successor could never begin its own.
    """
    try:
        _fence(group, shard, current)
        if not _is_published(group, shard):
            LOGGER.info("%s: publishing the replaced shard %d", group.spec.group, shard)
            group.publish(shard, overwrite=True)
    except (FileNotFoundError, IntegrityError, SchemaError) as error:
        LOGGER.warning("shard %d cannot be finished, fpipe repair mends it: %s", shard, error)


def _fence(group: ShardedStore, shard: int, current: Round) -> None:
    """See to it that a replacement which is still on its way is refused when it arrives.

    Its writer may have stalled after looking at the lease, or the network may hold its request back. It has
    kept the old file under `quarantine/` before: only such shards are written anew, with the same content as
    another attempt.
    """
    key = group.spec.shard_key(shard)
    sidecar = read_shard_tail(group.store, key, group.spec.chunks_per_shard).sidecar
    if sidecar.generation == current.generation:
        return
    if not group.store.exists(layout.quarantined(key, sidecar.attempt)):
        return
    LOGGER.info("%s: fencing shard %d", group.spec.group, shard)
    old = read_shard(group, shard)
    builder = group.builder(shard, f"{FENCE}{secrets.token_hex(6)}")
    builder.keep_all(old)
    sidecar = old.tail.sidecar
    origin = sidecar.info[FENCED] if sidecar.attempt.startswith(FENCE) else sidecar.attempt
    replace_shard(group, old, builder, current, {**sidecar.info, FENCED: origin})


def _is_replaced(group: ShardedStore, shard: int, old: ShardFile, current: Round) -> bool:
    """Say whether this round has replaced a shard already (its answer was lost), and publish it then."""
    if old.tail.sidecar.generation != current.generation:
        return False
    check_lease(group.store, current.token)
    group.publish(shard, overwrite=True)
    group.refresh()
    return True


def _same_outcome(old: ShardFile, builder: ShardBuilder) -> bool:
    """Say whether all objects of a builder ended as in the present file, so that no new file is needed."""
    return [_outcome(record) for record in old.tail.sidecar.objects] == [
        _outcome(record) for record in builder.records
    ]


def _outcome(record: ObjectRecord) -> tuple[object, ...]:
    failure = record.failure
    return (record.status, record.crc32c, failure and (failure.kind, failure.reason))


def _is_published(group: ShardedStore, shard: int) -> bool:
    key = group.marker_key(shard)
    try:
        marker = parse_document(group.store.read(key), key)
    except (FileNotFoundError, IntegrityError):
        return False
    tail = read_shard_tail(group.store, group.spec.shard_key(shard), group.spec.chunks_per_shard)
    return bool(marker["attempt"] == tail.sidecar.attempt)
