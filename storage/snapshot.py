"""The tails of one group's shard files, all as of one moment.

A snapshot begins with its first read. What it has read of a shard once stays what it reads: files of
replacements that began later (see `journal`) raise StaleSnapshotError.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from .errors import IntegrityError, StaleSnapshotError
from .group import GroupSpec
from .journal import Journal, read_journal
from .shards import TAIL_BYTES, ShardTail, Sidecar, TailTooShort, read_shard_tail, unpack_tail
from .store import Store

CACHED_TAILS = 64
MEND = "refresh() and read again; a command: run it again"


class Snapshot:
    """Reads sidecars and indexes of committed shards, which belong together.

    Args:
        store: The dataset.
        spec: Definition of the group.
    """

    def __init__(self, store: Store, spec: GroupSpec) -> None:
        self._store = store
        self._spec = spec
        self._tails: OrderedDict[int, ShardTail] = OrderedDict()
        self._attempts: dict[int, str] = {}  # of all shards that this snapshot has read
        self._journal: Journal | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Another process gets the same snapshot, and reads sidecars itself."""
        return {**self.__dict__, "_tails": OrderedDict()}

    def journal(self) -> Journal:
        """Return what this snapshot knows about replacements."""
        if self._journal is None:
            self._journal = read_journal(self._store, self._spec.group)
        return self._journal

    def tail(self, shard: int) -> ShardTail:
        """Return sidecar and index of a committed shard, cached.

        Raises:
            FileNotFoundError: There is none.
            StaleSnapshotError: The shard was replaced since this snapshot began.
        """
        journal = self.journal()  # before the file, or a later one would pass
        tail = self._tails.get(shard)
        if tail is None:
            tail = self.current_tail(shard)
            self._require_same(journal, tail.sidecar)
            self._tails[shard] = tail
        with suppress(KeyError):  # another thread may have dropped it
            self._tails.move_to_end(shard)
            while len(self._tails) > CACHED_TAILS:
                self._tails.popitem(last=False)
        return tail

    def read_tails(self, shards: Sequence[int]) -> dict[int, ShardTail]:
        """Read the tails of committed shards at the same time; those that are not there are left out.

        Raises:
            StaleSnapshotError: A shard was replaced since this snapshot began.
            IntegrityError: A tail is damaged.
        """
        journal = self.journal()  # before the files, or a later one would pass
        found = {}
        keys = [self._spec.shard_key(shard) for shard in shards]
        for shard, data in zip(shards, self._store.read_tails(keys, TAIL_BYTES), strict=True):
            if isinstance(data, FileNotFoundError):
                continue
            if isinstance(data, Exception):
                raise data
            found[shard] = self._checked_tail(shard, data)
            self._require_same(journal, found[shard].sidecar)
        return found

    def current_tail(self, shard: int) -> ShardTail:
        """Read sidecar and index of a committed shard as they are now, whatever this snapshot has seen.

        Raises:
            FileNotFoundError: There is none.
        """
        key = self._spec.shard_key(shard)
        tail = read_shard_tail(self._store, key, self._spec.chunks_per_shard)
        return self._of_this_group(key, shard, tail)

    def raise_if_replaced(self, shard: int, attempt: str) -> None:
        """Raise StaleSnapshotError if a shard is no longer what this attempt wrote."""
        if self.current_tail(shard).sidecar.attempt != attempt:
            key = self._spec.shard_key(shard)
            raise StaleSnapshotError(f"{key}: replaced while it was read; {MEND}")

    def _require_same(self, journal: Journal, sidecar: Sidecar) -> None:
        """Raise StaleSnapshotError unless a file belongs to the snapshot that began with this journal."""
        first = self._attempts.setdefault(sidecar.shard, sidecar.attempt)
        if sidecar.generation > journal.generation or sidecar.attempt != first:
            raise StaleSnapshotError(
                f"{self._spec.shard_key(sidecar.shard)}: replaced since this snapshot began; {MEND}"
            )

    def _checked_tail(self, shard: int, data: bytes) -> ShardTail:
        """Decode the end of a shard file that was read already; reads more where that is too little."""
        key = self._spec.shard_key(shard)
        try:
            tail = unpack_tail(data, self._spec.chunks_per_shard, key)
        except TailTooShort as short:
            tail = read_shard_tail(self._store, key, self._spec.chunks_per_shard, short.needed)
        return self._of_this_group(key, shard, tail)

    def _of_this_group(self, key: str, shard: int, tail: ShardTail) -> ShardTail:
        found = (tail.sidecar.kind, tail.sidecar.shard, tail.sidecar.config_hash)
        expected = (self._spec.kind, shard, self._spec.config_hash)
        if found != expected:
            raise IntegrityError(
                f"{key}: is {found}, but should be {expected}: from another dataset?", key=key
            )
        return tail
