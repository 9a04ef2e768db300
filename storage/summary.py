"""The status of all done shards of a group in one document, so that a snapshot need not read one per shard.

It is a cache of the derived array `status` and of the failure classes in the sidecars, written by commands
that finish or replace shards; who reads it reads whatever is newer from the shards themselves. It counts only
for the generation of the journal that it was made in: a round of replacements makes it void at once. Groups
of a few shards have none: it would save nothing.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from . import layout
from .documents import SCHEMA_VERSION, dump_document, parse_document
from .errors import IntegrityError, SchemaError, StaleSnapshotError
from .parallel import in_parallel
from .records import Status

if TYPE_CHECKING:
    from .sharded import ShardedStore

LOGGER = logging.getLogger(__name__)

MIN_SHARDS: Final = 256
"""Below that many done shards there is no summary."""


@dataclass(frozen=True)
class Summary:
    """What the document says.

    Attributes:
        generation: Generation of the journal.
        shards: bool [shards], those that it covers.
        status: u8 [rows], `Status` of the rows of these shards.
        kinds: Names of failure classes.
        kind: u16 [rows], 1 + position in `kinds` for failed rows, else 0.
    """

    generation: int
    shards: NDArray[np.bool_]
    status: NDArray[np.uint8]
    kinds: tuple[str, ...]
    kind: NDArray[np.uint16]

    def covers(self, n_shards: int) -> NDArray[np.bool_]:
        """Return which of the first `n_shards` it covers, bool [n_shards]."""
        return _resized(self.shards, n_shards)


def read_summary(group: ShardedStore) -> Summary | None:
    """Read the summary of a group; None where there is none.

    Raises:
        IntegrityError, SchemaError: It is damaged, or of another major version.
    """
    key = layout.summary(group.spec.group)
    try:
        values = parse_document(group.store.read(key), key)
    except FileNotFoundError:
        return None
    return Summary(
        generation=int(values["generation"]),
        shards=np.frombuffer(_unpacked(values["shards"]), np.bool_),
        status=np.frombuffer(_unpacked(values["status"]), np.uint8),
        kinds=tuple(values["kinds"]),
        kind=np.frombuffer(_unpacked(values["kind"]), "<u2"),
    )


def usable_summary(group: ShardedStore, done: Collection[int]) -> Summary | None:
    """Return the summary where it is of the group's snapshot and worth a read; passes over a damaged one."""
    if len(done) < MIN_SHARDS:
        return None
    try:
        found = read_summary(group)
    except (IntegrityError, SchemaError) as error:
        LOGGER.warning("%s; reading every shard instead (fpipe repair makes it again)", error)
        return None
    return found if found is not None and found.generation == group.journal().generation else None


def update_summary(group: ShardedStore, anew: bool = False) -> bool:
    """Write the summary of what is done now, reading only shards that the present one lacks.

    Nothing depends on it, so that what stands in the way is only logged.

    Args:
        group: The group; begins a new snapshot.
        anew: Read all shards.

    Returns:
        Whether it was written.
    """
    try:
        group.refresh()
        return _update(group, anew)
    except (IntegrityError, StaleSnapshotError) as error:
        LOGGER.warning("no summary of %s: %s", group.spec.group, error)
        return False


def failure_rows(group: ShardedStore) -> dict[str, NDArray[np.int64]]:
    """Return failure class -> rows, ascending; reads the sidecars of shards that no summary covers."""
    return status_and_failures(group)[1]


def status_and_failures(
    group: ShardedStore, done: Collection[int] | None = None
) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.int64]]]:
    """Return the `Status` of every row, u8 [N], and what `failure_rows` returns.

    Args:
        group: The group.
        done: Its done shards, where they are known.
    """
    done = group.done() if done is None else done
    summary = usable_summary(group, done)
    status, (kinds, kind) = group.read_status(done, summary), _kinds(group, summary)
    missing = np.flatnonzero((status == Status.FAILED) & (kind == 0))
    kinds, kind = _add_kinds(group, missing, kinds, kind)
    kind[status != Status.FAILED] = 0
    found = {name: np.flatnonzero(kind == number) for number, name in enumerate(kinds, start=1)}
    return status, {name: rows for name, rows in found.items() if len(rows)}


def known_status(
    group: ShardedStore, summary: Summary, shards: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the rows of some shards that a summary covers, and their states."""
    rows = np.flatnonzero(rows_of_shards(group, shards))
    return rows, _resized(summary.status, group.spec.n_objects)[rows]


def rows_of_shards(group: ShardedStore, shards: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which rows lie in some shards, bool [N]."""
    return np.repeat(shards, group.spec.objects_per_shard)[: group.spec.n_objects]


def _update(group: ShardedStore, anew: bool) -> bool:
    journal, done = group.journal(), group.done()
    if journal.open or len(done) < MIN_SHARDS:
        return False
    shards = np.zeros(group.n_shards, np.bool_)
    shards[sorted(done)] = True
    old = None if anew else usable_summary(group, done)
    if old is not None and not (shards & ~old.covers(len(shards))).any():
        return False
    status = group.read_status(done, old)
    kinds, kind = _kinds(group, old)
    missing = np.flatnonzero((status == Status.FAILED) & (kind == 0))
    kinds, kind = _add_kinds(group, missing, kinds, kind)
    document = {
        "schema_version": SCHEMA_VERSION,
        "generation": journal.generation,
        "shards": _packed(shards),
        "status": _packed(status),
        "kinds": kinds,
        "kind": _packed(kind.astype("<u2")),
    }
    group.store.replace(layout.summary(group.spec.group), dump_document(document))
    return True


def _kinds(group: ShardedStore, summary: Summary | None) -> tuple[list[str], NDArray[np.uint16]]:
    if summary is None:
        return [], np.zeros(group.spec.n_objects, np.uint16)
    covered = rows_of_shards(group, summary.covers(group.n_shards))
    return list(summary.kinds), np.where(covered, _resized(summary.kind, group.spec.n_objects), 0)


def _add_kinds(
    group: ShardedStore, rows: NDArray[np.int64], kinds: list[str], kind: NDArray[np.uint16]
) -> tuple[list[str], NDArray[np.uint16]]:
    """Look up the failure classes of failed rows in their sidecars."""
    numbers = {name: number for number, name in enumerate(kinds, start=1)}
    shards = np.unique(rows // group.spec.objects_per_shard).tolist()
    for found in in_parallel(lambda shard: _failures(group, shard), shards):
        for row, name in found:
            kind[row] = numbers.setdefault(name, len(numbers) + 1)
    return list(numbers), kind


def _failures(group: ShardedStore, shard: int) -> list[tuple[int, str]]:
    return [
        (each.row, each.failure.kind) for each in group.sidecar(shard).objects if each.failure is not None
    ]


def _packed(values: NDArray[Any]) -> str:
    from numcodecs.zstd import Zstd

    return base64.b64encode(Zstd(level=5).encode(np.ascontiguousarray(values))).decode()


def _unpacked(text: str) -> bytes:
    from numcodecs.zstd import Zstd

    return bytes(Zstd().decode(base64.b64decode(text)))


def _resized(values: NDArray[Any], length: int) -> NDArray[Any]:
    """Cut to a length, or fill up with zeros: an append may lie between a summary and who reads it."""
    return np.concatenate([values[:length], np.zeros(max(0, length - len(values)), values.dtype)])
