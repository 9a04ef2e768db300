"""Read a finished or growing dataset of fits: `open_planes(url)["car-000012"].planes()`.

    dataset[3], dataset["car-000012"]        one object (`FittedObject`)
    dataset[[3, 1, 4]], dataset[["a", "b"]], dataset[:32], dataset[mask]    a batch (`FittedBatch`)

A dataset is a snapshot: it holds the shards that were done when it was opened; `refresh()` takes a new one.
Where a shard was replaced since (a retry, a refit), reading it raises StaleSnapshotError until then.
Failed and absent objects raise ObjectUnavailableError, they never read as zeros or NaN.
Opens without torch, ray, bpy or zarr.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from .errors import ObjectUnavailableError, StaleSnapshotError, UsageError
from .fit_statistics import read_statistics, snapshot_statistics
from .fitted import FittedBatch, FittedObject
from .object_reader import ObjectReader
from .planes import PlanesStore
from .records import Status
from .shared import read_base_planes, read_shared_meta
from .statistics import ChannelStats
from .store import Store
from .views import ViewsStore

REFRESH_ATTEMPTS = 5

Many = slice | list[int] | list[str] | tuple[int, ...] | tuple[str, ...] | NDArray[Any]


def open_planes(
    url: str | Path, fit: str | None = None, stats_version: str | None = None, **storage_options: Any
) -> PlanesDataset:
    """Open the fits of a dataset.

    Args:
        url: Root of the dataset, a folder or any fsspec URL.
        fit: Name of the fit; the published one by default.
        stats_version: Version of the channel statistics that `stats` and `normalize` use, for instance the
            one that a model was trained with; by default that of the snapshot.
        **storage_options: Passed on to the fsspec file system.

    Raises:
        UsageError: no dataset there, no such fit, or none published; no such version of the statistics.
        SchemaError: written by another major version.
    """
    return PlanesDataset(PlanesStore.open(Store(url, **storage_options), fit), stats_version)


class PlanesDataset:
    """All objects of one fit that have data, in row order.

    Index with an object id or with a position in `ids`, or with many of them; iterate over the objects; `len`
    counts them. It can be sent to other processes, and used after a fork: each opens its own connections.

    Attributes:
        status: u8 [N], `Status` of every row of the plan in this snapshot.
        fits: Reads what was fitted.
    """

    def __init__(self, planes: PlanesStore, stats_version: str | None = None) -> None:
        self._planes = planes
        self._pinned = None if stats_version is None else read_statistics(planes, stats_version)
        self.fits = ObjectReader(planes)
        self.refresh()

    def refresh(self) -> None:
        """Take a new snapshot of the shards that are done."""
        for attempt in range(REFRESH_ATTEMPTS):
            self._planes.refresh()
            self.fits.clear()
            try:
                status = self._planes.status()
                break
            except StaleSnapshotError:  # a round of replacements began at this moment
                if attempt == REFRESH_ATTEMPTS - 1:
                    raise
        # A fit that was begun at the moment of an append ends before the plan does.
        beyond = np.full(self._planes.plan.n_rows - len(status), Status.ABSENT, status.dtype)
        self.status: NDArray[np.uint8] = np.concatenate([status, beyond])
        self._ok_rows: NDArray[np.int64] = np.flatnonzero(self.status == Status.OK)
        for name in ("ids", "views", "cameras", "stats"):
            self.__dict__.pop(name, None)

    def __len__(self) -> int:
        return len(self._ok_rows)

    def __repr__(self) -> str:
        header = self._planes.header
        return f"PlanesDataset({self._planes.store.url!r}, fit={header.name!r}, {len(self)} objects)"

    def __iter__(self) -> Iterator[FittedObject]:
        for row in self._ok_rows:
            yield FittedObject(self, int(row))

    def __contains__(self, object_id: object) -> bool:
        if not isinstance(object_id, str):
            return False
        try:
            return bool(self.status[self._planes.plan.row_of(object_id)] == Status.OK)
        except KeyError:
            return False

    @overload
    def __getitem__(self, which: str | int) -> FittedObject: ...
    @overload
    def __getitem__(self, which: Many) -> FittedBatch: ...
    def __getitem__(self, which: str | int | Many) -> FittedObject | FittedBatch:
        """Return one object by id or position, or a batch by ids, positions, a slice or a mask [len].

        Raises:
            KeyError: no object of this id in the plan.
            IndexError: position out of range.
            ObjectUnavailableError: an object failed, or is not done.
            UsageError: neither ids nor positions.
        """
        if isinstance(which, str):
            return FittedObject(self, self._ok_row_of(which))
        if isinstance(which, (int, np.integer)):
            return FittedObject(self, int(self._ok_rows[which]))
        return FittedBatch(self, self._rows_of(which))

    def _rows_of(self, which: Many) -> NDArray[np.int64]:
        if isinstance(which, slice):
            return self._ok_rows[which]
        wanted = np.asarray(which)
        if wanted.ndim != 1 or (len(wanted) and wanted.dtype.kind not in "iubUO"):
            raise UsageError(f"{which!r}: index with an id, a position, a list of either, a slice or a mask")
        if wanted.dtype.kind in "UO":
            return np.array([self._ok_row_of(str(object_id)) for object_id in wanted], np.int64)
        positions = wanted if wanted.dtype == np.bool_ else wanted.astype(np.int64)
        rows: NDArray[np.int64] = self._ok_rows[positions]
        return rows

    def _ok_row_of(self, object_id: str) -> int:
        row = self._planes.plan.row_of(object_id)
        if self.status[row] == Status.ABSENT:
            raise ObjectUnavailableError(
                f"{object_id} (row {row}) is not in this snapshot", object_id=object_id
            )
        if self.status[row] == Status.FAILED:
            self._planes.ok_record(row)  # says why
        return row

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Ids of the objects that have data, in row order."""
        return tuple(self._planes.plan.rows.object_ids(self._ok_rows))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the dataset; those of appended objects follow the first ones."""
        return self._planes.plan.classes

    @property
    def planes_store(self) -> PlanesStore:
        """The store below, for whole columns such as metrics and coefficients."""
        return self._planes

    @cached_property
    def shared(self) -> dict[str, Any]:
        """`shared.json`: geometry (box_half, near, far, …), sizes and training record."""
        return read_shared_meta(self._planes.store, self._planes.header.shared_version)

    @cached_property
    def _base_planes(self) -> NDArray[np.float32]:
        return read_base_planes(self._planes.store, self._planes.header.shared_version)

    def base_planes(self) -> NDArray[np.float32]:
        """Return the base planes, f32 [M, 3, F_mac, K, K]."""
        return self._base_planes

    @cached_property
    def stats(self) -> ChannelStats:
        """Statistics of every plane and channel: the pinned version, or that of this snapshot.

        Where none is stored of exactly this snapshot, they are merged from its shards: one small read for
        each. `fpipe stats ROOT` stores them.

        Raises:
            UsageError: no object has a fit.
            StaleSnapshotError: a shard was replaced since this snapshot began.
        """
        return self._pinned or snapshot_statistics(self._planes, self.status)

    @property
    def provenance(self) -> dict[str, Any]:
        """What made this data: source, configurations and hashes of every stage.

        `stats_version` is that of the statistics which were pinned or used, None before they were used.
        """
        stats = self._pinned or self.__dict__.get("stats")
        header, plan = self._planes.header, self._planes.plan
        return {
            "url": self._planes.store.url,
            "plan_hash": plan.plan_hash,
            "plan": plan.header.model_dump(mode="json"),
            "fit": header.model_dump(mode="json"),
            "shared_version": header.shared_version,
            "stats_version": stats and stats.version,
        }

    @cached_property
    def views(self) -> ViewsStore:
        """The views that the fits were made from."""
        return ViewsStore.open(self._planes.store)

    @cached_property
    def cameras(self) -> ObjectReader:
        """Reads the cameras of the views."""
        return ObjectReader(self.views)
