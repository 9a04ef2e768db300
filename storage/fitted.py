"""One object or a batch of objects of a dataset, read on demand: planes, coefficients, cameras, metrics.

Nothing is kept: every call reads, with one request per object (fewer where objects lie side by side) and at
the same time. What a shard's sidecar holds (all but the micro planes) is read once per shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .errors import UsageError
from .group import CLASS
from .statistics import Normalization, normalize_planes

if TYPE_CHECKING:
    from .reader import PlanesDataset

Layout = Literal["3fkk", "flat"]


class FittedBatch:
    """Objects of a dataset, in the order asked for. All arrays have one entry per object on the first axis.

    Attributes:
        rows: i64 [B], rows of the plan.
    """

    def __init__(self, dataset: PlanesDataset, rows: NDArray[np.int64]) -> None:
        self._dataset = dataset
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[FittedObject]:
        return (FittedObject(self._dataset, int(row)) for row in self.rows)

    def __repr__(self) -> str:
        return f"FittedBatch({len(self)} objects of {self._dataset!r})"

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Ids of the objects."""
        plan_rows = self._dataset.planes_store.plan.rows
        return tuple(plan_rows[row].object_id for row in self.rows.tolist())

    @property
    def class_index(self) -> NDArray[np.int32]:
        """Classes of the objects as positions in the dataset's `classes`, i32 [B]."""
        return self._dataset.fits.values(CLASS, self.rows)

    @property
    def regime(self) -> NDArray[np.uint8]:
        """1 when trained jointly with the shared components, 2 when fitted to frozen ones, u8 [B]."""
        return self._dataset.fits.values("regime", self.rows)

    @property
    def metrics(self) -> dict[str, NDArray[np.float32]]:
        """Held-out metrics as they were measured after fitting: name -> f32 [B]; NaN where unknown."""
        values = self._dataset.fits.values("metrics", self.rows)
        names = self._dataset.planes_store.header.metric_names
        return {name: values[:, column] for column, name in enumerate(names)}

    def micro(self, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """Return the micro planes [B, 3, F_mic, K, K], plane order in the fit's header; F_mic is 0 for ULW.

        Args:
            dtype: Of the result; the stored one (`planes_store.header.dtype`) needs no conversion.

        Raises:
            StaleSnapshotError: a shard was replaced since the dataset was opened: `refresh()` it.
            IntegrityError: stored bytes are damaged.
        """
        header = self._dataset.planes_store.header
        if header.f_mic == 0:
            return np.empty((len(self), 3, 0, header.resolution, header.resolution), dtype)
        return self._dataset.fits.payload(self.rows).astype(dtype, copy=False)

    def coefficients(self) -> NDArray[np.float32]:
        """Return the coefficients of the base planes, f32 [B, M]; M is 0 where there are none."""
        if not self._dataset.planes_store.header.n_base:
            return np.empty((len(self), 0), np.float32)
        return self._dataset.fits.values("coefficients", self.rows)

    def planes(
        self,
        layout: Layout = "3fkk",
        dtype: DTypeLike = np.float32,
        normalize: Normalization | None = None,
    ) -> NDArray[Any]:
        """Return the fused planes: micro channels first, then macro, the coefficient-weighted base planes.

        Args:
            layout: "3fkk": [B, 3, F_mic + F_mac, K, K]. "flat": [B, 3F, K, K], all channels of the first
                plane, then of the second and the third: what 2-D networks take.
            dtype: Of the result, a floating type; fused in f32.
            normalize: "minmax" and "absmax" scale every channel to [-1, 1], "std" to mean 0 and standard
                deviation 1, by the dataset's `stats` (see `storage.statistics`); None leaves the values.

        Raises:
            UsageError: no such layout, type or normalisation, or values beyond the type's range.
            StaleSnapshotError: a shard was replaced since the dataset was opened: `refresh()` it.
            IntegrityError: stored bytes are damaged.
        """
        if layout not in ("3fkk", "flat"):
            raise UsageError(f'no layout {layout!r}: use "3fkk" or "flat"')
        if np.dtype(dtype).kind != "f":
            raise UsageError(f"planes are floating-point numbers, not {np.dtype(dtype)}")
        header = self._dataset.planes_store.header
        own = dtype if normalize is None else np.float32
        fused = self._fused(own) if header.n_base else self.micro(own)
        if normalize is not None:
            fused = normalize_planes(fused, normalize, self._dataset.stats).astype(dtype, copy=False)
        if layout == "flat":
            return fused.reshape(len(self), 3 * fused.shape[2], *fused.shape[3:])
        return fused

    def _fused(self, dtype: DTypeLike) -> NDArray[Any]:
        base, f_mic = self._dataset.base_planes(), self._dataset.planes_store.header.f_mic
        shape = (len(self), 3, f_mic + base.shape[2], *base.shape[3:])
        fused = np.empty(shape, dtype)
        if f_mic:
            fused[:, :, :f_mic] = self._dataset.fits.payload(self.rows)
        macro = self.coefficients() @ base.reshape(len(base), -1)
        with np.errstate(over="ignore"):  # an overflow becomes inf and is refused below
            fused[:, :, f_mic:] = macro.reshape(len(self), *base.shape[1:])
        if fused.dtype.itemsize < macro.dtype.itemsize and not np.isfinite(fused).all():
            raise UsageError(f"planes reach ±{np.abs(macro).max():.3g}, beyond {fused.dtype}: use float32")
        return fused

    def cam2world(self) -> NDArray[np.float32]:
        """Return the cameras of the objects' views, f32 [B, V, 4, 4], OpenCV axes."""
        return self._dataset.cameras.values("cam2world", self.rows)

    def intrinsics(self) -> NDArray[np.float32]:
        """Return the intrinsics of the objects' views, f32 [B, V, 3, 3], pixels."""
        return self._dataset.cameras.values("intrinsics", self.rows)

    def heldout(self) -> NDArray[np.bool_]:
        """Return which views were held out of fitting, bool [B, V]."""
        return self._dataset.cameras.values("heldout", self.rows)


class FittedObject:
    """One object of a dataset; what `FittedBatch` has, without the first axis.

    Attributes:
        row: Row of the plan.
    """

    def __init__(self, dataset: PlanesDataset, row: int) -> None:
        self._dataset = dataset
        self._batch = FittedBatch(dataset, np.array([row], np.int64))
        self.row = row

    def __repr__(self) -> str:
        return f"FittedObject({self.object_id!r}, class_name={self.class_name!r}, row={self.row})"

    @property
    def object_id(self) -> str:
        """Its id."""
        return self._dataset.planes_store.plan.rows[self.row].object_id

    @property
    def class_name(self) -> str:
        """Its class."""
        return self._dataset.planes_store.plan.rows[self.row].class_name

    @property
    def class_index(self) -> int:
        """Position of its class in the dataset's `classes`."""
        return int(self._batch.class_index[0])

    @property
    def metrics(self) -> dict[str, float]:
        """Held-out metrics as they were measured when the object was fitted; NaN where unknown."""
        return {name: float(values[0]) for name, values in self._batch.metrics.items()}

    @property
    def regime(self) -> int:
        """1 when trained jointly with the shared components, 2 when fitted to frozen ones."""
        return int(self._batch.regime[0])

    def micro(self, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """Return the micro planes [3, F_mic, K, K]; see `FittedBatch.micro`."""
        values: NDArray[Any] = self._batch.micro(dtype)[0]
        return values

    def coefficients(self) -> NDArray[np.float32]:
        """Return the coefficients of the base planes, f32 [M]; M is 0 where all planes are micro planes."""
        values: NDArray[np.float32] = self._batch.coefficients()[0]
        return values

    def planes(
        self,
        layout: Layout = "3fkk",
        dtype: DTypeLike = np.float32,
        normalize: Normalization | None = None,
    ) -> NDArray[Any]:
        """Return the fused planes [3, F, K, K], or [3F, K, K] where flat; see `FittedBatch.planes`."""
        values: NDArray[Any] = self._batch.planes(layout, dtype, normalize)[0]
        return values

    def cam2world(self) -> NDArray[np.float32]:
        """Return the cameras of the object's views, f32 [V, 4, 4], OpenCV axes."""
        values: NDArray[np.float32] = self._batch.cam2world()[0]
        return values

    def intrinsics(self) -> NDArray[np.float32]:
        """Return the intrinsics of the object's views, f32 [V, 3, 3], pixels."""
        values: NDArray[np.float32] = self._batch.intrinsics()[0]
        return values

    def heldout(self) -> NDArray[np.bool_]:
        """Return which views were held out of fitting, bool [V]."""
        values: NDArray[np.bool_] = self._batch.heldout()[0]
        return values
