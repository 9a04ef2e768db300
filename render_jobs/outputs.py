"""Where a shard of the render stage goes: the views, and before them the passes that the plan asks for.

Each pass is a sharded group of its own (see `storage.passes`). It is committed, or replaced, before the views
of the same shard: views that are there have their passes.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import numpy.typing as npt

from storage.passes import PassShardBuilder, PassStore
from storage.records import Commit, Failure, ObjectViews
from storage.replacement import Round, read_shard, replace_shard
from storage.shards import ShardFile
from storage.views import ViewsShardBuilder, ViewsStore


def pass_stores(views: ViewsStore) -> list[PassStore]:
    """Returns the passes of a dataset, made where they are not there yet; none for most datasets."""
    names = views.plan.header.render_config.get("passes", [])
    return [PassStore.create_or_open(views.store, views.plan, name) for name in names]


class ShardOutputs:
    """The builders of one shard; a context manager.

    Args:
        views: The dataset's views.
        shard: Shard number.
        attempt: Id of this attempt, unique among all that may write this shard.

    Attributes:
        views: Builder of the views.
    """

    def __init__(self, views: ViewsStore, shard: int, attempt: str) -> None:
        self.views: ViewsShardBuilder = views.builder(shard, attempt)
        self._shard = shard
        self._passes: list[tuple[PassStore, PassShardBuilder]] = [
            (store, store.builder(shard, attempt)) for store in pass_stores(views)
        ]
        self._old: list[ShardFile] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for builder in (self.views, *(builder for _, builder in self._passes)):
            builder.__exit__(kind, error, trace)

    def add(
        self, row: int, views: ObjectViews, passes: dict[str, npt.NDArray[Any]], info: dict[str, Any]
    ) -> None:
        """Adds one object.

        Raises:
            ValueError: Values that the store refuses; the row has no result then.
        """
        self.views.add(row, views, info)
        for store, builder in self._passes:
            builder.add(row, passes[store.spec.kind])

    def fail(self, row: int, failure: Failure) -> None:
        """Records that an object has no result, and why."""
        self.views.fail(row, failure)
        for _, builder in self._passes:
            builder.fail(row, failure)

    def commit(self, info: dict[str, Any]) -> Commit:
        """Commits the passes, then the views.

        Where another attempt has committed a pass already, an object that failed there fails here too: what
        has views has its passes, and a retry mends both.

        Raises:
            TransientError: The store kept failing; committing again is safe.
        """
        for store, builder in self._passes:
            if builder.commit(info).won:
                continue
            has_views = {record.row for record in self.views.records if record.failure is None}
            for record in store.sidecar(self._shard).objects:
                if record.failure is not None and record.row in has_views:
                    self.views.reopen(record.row)
                    self.views.fail(record.row, record.failure)
        return self.views.commit(info)

    def reopen_passes(self, rows: list[int]) -> None:
        """Takes over the committed passes, except these rows, which get other results."""
        self._old = [read_shard(store, self._shard) for store, _ in self._passes]
        for old, (_, builder) in zip(self._old, self._passes, strict=True):
            builder.keep_all(old)
            for row in rows:
                builder.reopen(row)

    def replace_passes(self, token: str, generations: dict[str, int]) -> None:
        """Replaces the passes that `reopen_passes` has taken over, in the rounds that are open for them.

        Raises:
            LeaseLostError, StaleSnapshotError, TransientError: See `storage.replacement.replace_shard`.
        """
        for old, (store, builder) in zip(self._old, self._passes, strict=True):
            replace_shard(store, old, builder, Round(token, generations[store.spec.kind]))
