"""Read a finished or growing dataset of fits: `open_planes(url)["car-000012"].planes()`.

A dataset is a snapshot: it holds the shards that were done when it was opened; `refresh()` takes a new one.
Where a shard was replaced since (a retry, a refit), reading it raises StaleSnapshotError until then.
Failed and absent objects raise ObjectUnavailableError, they never read as zeros or NaN.
Opens without torch, ray, bpy or zarr.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .errors import ObjectUnavailableError, StaleSnapshotError
from .fit_statistics import read_statistics, snapshot_statistics
from .planes import PlanesStore
from .records import Status
from .shared import read_base_planes, read_shared_meta
from .statistics import ChannelStats
from .store import Store
from .views import ViewsStore

REFRESH_ATTEMPTS = 5


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

    Index with an object id or with a position in `ids`; iterate over the objects; `len` counts them.

    Attributes:
        status: u8 [N], `Status` of every row of the plan in this snapshot.
    """

    def __init__(self, planes: PlanesStore, stats_version: str | None = None) -> None:
        self._planes = planes
        self._pinned = None if stats_version is None else read_statistics(planes, stats_version)
        self.refresh()

    def refresh(self) -> None:
        """Take a new snapshot of the shards that are done."""
        for attempt in range(REFRESH_ATTEMPTS):
            self._planes.refresh()
            try:
                self.status = self._planes.status()
                break
            except StaleSnapshotError:  # a round of replacements began at this moment
                if attempt == REFRESH_ATTEMPTS - 1:
                    raise
        self._ok_rows = np.flatnonzero(self.status == Status.OK)
        for name in ("ids", "views", "stats"):
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
        return isinstance(object_id, str) and object_id in set(self.ids)

    def __getitem__(self, which: str | int) -> FittedObject:
        """Return one object by id or by position.

        Raises:
            KeyError: no object of this id in the plan.
            IndexError: position out of range.
            ObjectUnavailableError: the object failed, or is not done.
        """
        if not isinstance(which, str):
            return FittedObject(self, int(self._ok_rows[which]))
        row = self._planes.plan.row_of(which)
        if self.status[row] == Status.ABSENT:
            raise ObjectUnavailableError(f"{which} (row {row}) is not in this snapshot", object_id=which)
        return FittedObject(self, self._planes.ok_record(row).row)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Ids of the objects that have data, in row order."""
        rows = self._planes.plan.rows
        return tuple(rows[int(row)].object_id for row in self._ok_rows)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the dataset, sorted."""
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


class FittedObject:
    """One object of a dataset; reads on demand.

    Attributes:
        row: Row of the plan.
        object_id: Its id.
        class_name: Its class.
    """

    def __init__(self, dataset: PlanesDataset, row: int) -> None:
        entry = dataset.planes_store.plan.rows[row]
        self._dataset = dataset
        self.row = row
        self.object_id = entry.object_id
        self.class_name = entry.class_name

    def __repr__(self) -> str:
        return f"FittedObject({self.object_id!r}, class_name={self.class_name!r}, row={self.row})"

    def micro(self, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """Return the micro planes [3, F_mic, K, K], plane order in the fit's header; F_mic is 0 for ULW."""
        store = self._dataset.planes_store
        if store.header.f_mic == 0:
            size = store.header.resolution
            return np.empty((3, 0, size, size), dtype)
        values: NDArray[Any] = store.chunks(self.row)[0][0].astype(dtype)
        return values

    def coefficients(self) -> NDArray[np.float32]:
        """Return the coefficients of the base planes, f32 [M]; M is 0 where all planes are micro planes."""
        return self._values()["coefficients"].copy()

    def planes(self) -> NDArray[np.float32]:
        """Return the fused planes, f32 [3, F_mic + F_mac, K, K]: micro channels first, then macro."""
        macro = np.tensordot(self.coefficients(), self._dataset.base_planes(), axes=1)
        return np.concatenate([self.micro(), macro], axis=1, dtype=np.float32)

    @property
    def metrics(self) -> dict[str, float]:
        """Held-out metrics as they were measured when the object was fitted; NaN where unknown."""
        names = self._dataset.planes_store.header.metric_names
        return dict(zip(names, self._values()["metrics"].tolist(), strict=True))

    @property
    def regime(self) -> int:
        """1 when trained jointly with the shared components, 2 when fitted to frozen ones."""
        return int(self._values()["regime"])

    def cam2world(self) -> NDArray[np.float32]:
        """Return the cameras of the object's views, f32 [V, 4, 4], OpenCV axes."""
        return self._view_values()["cam2world"].copy()

    def intrinsics(self) -> NDArray[np.float32]:
        """Return the intrinsics of the object's views, f32 [V, 3, 3], pixels."""
        return self._view_values()["intrinsics"].copy()

    def heldout(self) -> NDArray[np.bool_]:
        """Return which views were held out of fitting, bool [V]."""
        return self._view_values()["heldout"].copy()

    def _values(self) -> dict[str, NDArray[Any]]:
        return self._dataset.planes_store.values(self.row)

    def _view_values(self) -> dict[str, NDArray[Any]]:
        views = self._dataset.views
        return views.values(views.ok_record(self.row).row)
