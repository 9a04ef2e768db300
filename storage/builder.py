"""Building one shard: objects are compressed on arrival, then committed as one file and published.

A builder can also start from the shard's present file (`keep_all`), to make the file that replaces it.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, Self

from .arrays import chunk_checksum
from .documents import plain
from .group import CLASS, STATUS
from .records import Commit, Failure, Status
from .sharded import ShardedStore
from .shards import ObjectRecord, ShardFile, Sidecar, commit_shard, pack_shard

LOGGER = logging.getLogger(__name__)


class ShardBuilder:
    """Collects the objects of one shard, compressed on arrival, and commits them as one file.

    Args:
        target: The group to write to.
        shard: Shard number.
        attempt: Id of this attempt, unique among all that may write this shard.

    Attributes:
        shard: As given.
        attempt: As given.
    """

    def __init__(self, target: ShardedStore, shard: int, attempt: str) -> None:
        self._target = target
        self._rows = target.shard_rows(shard)
        self.shard = shard
        self.attempt = attempt
        objects = target.plan.rows[self._rows.start : self._rows.stop]
        self._ids = [row.object_id for row in objects]
        self._records: dict[int, ObjectRecord] = {}
        self._chunks: dict[int, list[bytes]] = {}
        derived = [spec for spec in target.spec.derived if spec.name != STATUS]
        self._arrays = {spec.name: spec.filled(len(self._rows)) for spec in derived}
        self._arrays[CLASS][:] = [target.plan.classes.index(row.class_name) for row in objects]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._chunks.clear()

    @property
    def records(self) -> list[ObjectRecord]:
        """What is known about the rows that have a result, in row order."""
        return [self._records[row] for row in sorted(self._records)]

    @property
    def missing_rows(self) -> list[int]:
        """Rows that have neither data nor a failure yet."""
        return [row for row in self._rows if row not in self._records]

    def fail(self, row: int, failure: Failure, info: dict[str, Any] | None = None) -> None:
        """Record that an object has no result, and why."""
        self._record(row, Status.FAILED, info, failure)

    def leave_absent(self, row: int) -> None:
        """Record that a row of the plan holds no object."""
        self._record(row, Status.ABSENT, None)
        self._arrays[CLASS][row - self._rows.start] = -1

    def keep_all(self, file: ShardFile) -> None:
        """Take over every object of the shard's present file, byte for byte."""
        per_object = self._target.spec.chunks_per_object
        for position, record in enumerate(file.tail.sidecar.objects):
            self._records[record.row] = record
            if record.status == Status.OK:
                self._chunks[record.row] = file.chunks(position, per_object)
        for name, values in file.tail.sidecar.arrays.items():
            self._arrays[name][:] = values

    def reopen(self, row: int) -> None:
        """Forget the result of a row, so that it can get another one."""
        position = row - self._rows.start
        self._records.pop(row)
        self._chunks.pop(row, None)
        for name, values in self._arrays.items():
            values[position] = self._target.spec.derived_spec(name).fill
        row_class = self._target.plan.rows[row].class_name
        self._arrays[CLASS][position] = self._target.plan.classes.index(row_class)

    def note(self, row: int, info: dict[str, Any]) -> None:
        """Replace what is noted about a row that has a result; its data stay as they are."""
        self._records[row] = replace(self._records[row], info=plain(info))

    def commit(self, info: dict[str, Any] | None = None) -> Commit:
        """Commit the shard and publish it, whoever's file it is now.

        Args:
            info: About the shard as a whole, for instance seconds and host.

        Raises:
            ValueError: a row has neither data nor a failure.
            TransientError: the store kept failing; committing again with the same builder is safe.
        """
        spec, data = self._target.spec, self.pack(info)
        key = spec.shard_key(self.shard)
        commit = commit_shard(self._target.store, key, data, self.attempt, spec.chunks_per_shard)
        if not commit.won:
            LOGGER.warning("%s was committed by attempt %s, not %s", key, commit.attempt, self.attempt)
        self._target.publish(self.shard)
        return commit

    def pack(self, info: dict[str, Any] | None = None, generation: int = 0) -> bytes:
        """Return the shard file; raises ValueError when a row has neither data nor a failure."""
        if self.missing_rows:
            raise ValueError(f"shard {self.shard}: rows without a result: {self.missing_rows[:8]}")
        spec = self._target.spec
        sidecar = Sidecar(
            kind=spec.kind,
            shard=self.shard,
            attempt=self.attempt,
            config_hash=spec.config_hash,
            objects=tuple(self._records[row] for row in self._rows),
            arrays=self._arrays,
            info=plain(info or {}),
            generation=generation,
        )
        chunks = [self._chunks.get(row, []) for row in self._rows]
        statistics = self._statistics()
        return pack_shard(sidecar, chunks, spec.chunks_per_object, spec.objects_per_shard, statistics)

    def _statistics(self) -> bytes:
        """Return what is stored as the shard's channel statistics; empty where there are no channels."""
        return b""

    def _add(
        self, row: int, values: dict[str, Any], chunks: list[bytes], info: dict[str, Any] | None
    ) -> None:
        self._record(row, Status.OK, info, checksums=tuple(map(chunk_checksum, chunks)))
        self._chunks[row] = chunks
        for name, value in values.items():
            self._arrays[name][row - self._rows.start] = value

    def _record(
        self,
        row: int,
        status: Status,
        info: dict[str, Any] | None,
        failure: Failure | None = None,
        checksums: tuple[int, ...] = (),
    ) -> None:
        if row not in self._rows:
            raise ValueError(f"row {row} is not in shard {self.shard} (rows {self._rows})")
        if row in self._records:
            raise ValueError(f"row {row} of shard {self.shard} has a result already")
        object_id = self._ids[row - self._rows.start]
        self._records[row] = ObjectRecord(row, object_id, status, failure, plain(info or {}), checksums)
