"""`fits/<name>/planes.zarr`: micro planes, coefficients and metrics of all objects under one fit.

Arrays (N objects, M base planes): micro f16|f32 [N, 3, F_mic, K, K] (plane order in its attribute `planes`;
absent when F_mic = 0), coefficients f32 [N, M] (absent when M = 0), metrics f32 [N, n] (attribute `names`),
regime u8 [N] (0 for none), class i32 [N], status u8 [N]. `fits/<name>/header.json` defines the fit and is
written first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from . import layout
from .arrays import ArraySpec, decode_chunk, encode_chunk
from .builder import ShardBuilder
from .documents import SCHEMA_VERSION, content_hash, differences, dump_document, parse_document
from .errors import IntegrityError, StoreMismatchError, UsageError
from .group import CLASS, STATUS, GroupSpec, check_group, create_group, derived_array
from .plan import Plan, read_plan
from .records import ObjectFit
from .sharded import ShardedStore
from .shared import read_base_planes
from .sketch import sketch_fits
from .store import Store

LOGGER = logging.getLogger(__name__)

METRIC_NAMES = (
    "psnr_db",
    "ssim",
    "foreground_psnr_db",
    "ceiling_psnr_db",
    "white_psnr_db",
    "nearest_view_psnr_db",
    "lpips",
)
_NOT_CONTENT = {"schema_version", "created", "objects_per_shard", "metric_names"}


class FitHeader(BaseModel):
    """What all objects of one fit have in common.

    Attributes:
        schema_version: "major.minor" of the stored form.
        name: Name of the fit.
        shared_version: Content hash of the shared components that it uses.
        fit_config: Resolved fit configuration, content-changing fields only.
        fit_config_hash: Hash of `fit_config`.
        n_objects: Rows N, those of the plan.
        f_mic: Micro channels per plane; 0 means no micro planes (ULW).
        resolution: Texels K along one side of a plane.
        n_base: Base planes M; 0 means no coefficients (micro only).
        dtype: Stored type of the micro planes.
        objects_per_shard: Objects per shard file.
        plane_order: Axes of the three planes, columns first; the last is "zx" with the released code's axes.
        metric_names: Names of the stored metrics, in order.
        created: ISO date, not part of the content.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: str = SCHEMA_VERSION
    name: str
    shared_version: str
    fit_config: dict[str, Any] = {}
    fit_config_hash: str
    n_objects: int = Field(ge=1)
    f_mic: int = Field(ge=0)
    resolution: int = Field(ge=1)
    n_base: int = Field(ge=0)
    dtype: Literal["float16", "float32"] = "float16"
    objects_per_shard: int = Field(ge=1)
    plane_order: tuple[str, str, str] = ("xy", "xz", "yz")
    metric_names: tuple[str, ...] = METRIC_NAMES
    created: str = ""

    @property
    def object_bytes(self) -> tuple[int, int]:
        """Bytes of one object's micro planes and coefficients."""
        return code_bytes(self.f_mic, self.resolution, self.n_base, self.dtype)

    def content(self) -> dict[str, Any]:
        """Return the fields that two runs of one fit must agree on."""
        return self.model_dump(mode="json", exclude=_NOT_CONTENT)


def code_bytes(f_mic: int, resolution: int, n_base: int, dtype: str) -> tuple[int, int]:
    """Bytes of one object's code before compression: micro planes of a type, and coefficients (f32)."""
    return 3 * f_mic * resolution**2 * np.dtype(dtype).itemsize, 4 * n_base


class PlanesStore(ShardedStore):
    """One fit. Use `create_or_open` to write, `open` to read.

    Attributes:
        header: The stored header of the fit.
    """

    def __init__(self, store: Store, plan: Plan, header: FitHeader, config_hash: str) -> None:
        super().__init__(store, plan, planes_spec(plan, header, config_hash))
        self.header = header

    @classmethod
    def create_or_open(cls, store: Store, plan: Plan, header: FitHeader) -> PlanesStore:
        """Make a fit, or open the existing one; an existing one keeps its shard size.

        Raises:
            StoreMismatchError: a fit of this name has another configuration or shared_version.
        """
        key = layout.fit_header(header.name)
        if header.n_objects != plan.header.n_objects:
            raise StoreMismatchError(
                f"{key}: n_objects: {plan.header.n_objects} (plan) -> {header.n_objects}"
            )
        config_hash = content_hash({"fit": header.content(), "plan_hash": plan.plan_hash})
        document = {"header": header.model_dump(mode="json"), "config_hash": config_hash}
        store.create(key, dump_document({"schema_version": SCHEMA_VERSION, **document}))
        existing, config_hash = _read_header(store, header.name)
        found = differences(header.content(), existing.content())
        if found:
            raise StoreMismatchError(f"{key}: {'; '.join(found[:8])}. Give the new fit another name")
        planes = cls(store, plan, existing, config_hash)
        create_group(store, planes.spec)
        return planes

    @classmethod
    def open(cls, store: Store, name: str | None = None) -> PlanesStore:
        """Open a fit by name, or the published one.

        Raises:
            UsageError: there is no such fit, or none is published.
        """
        plan = read_plan(store)
        planes = cls(store, plan, *_read_header(store, name or published_fit(store)))
        check_group(store, planes.spec)
        return planes

    def builder(self, shard: int, attempt: str) -> PlanesShardBuilder:
        """Start building one shard under an attempt id that no other writer uses."""
        return PlanesShardBuilder(self, shard, attempt)

    def read(self, row: int) -> ObjectFit:
        """Return the fit of one object, checked against its checksum.

        Raises:
            ObjectUnavailableError: it failed, is absent, or its shard is not done.
            IntegrityError: stored bytes are damaged.
        """
        record = self.ok_record(row)
        values = self.values(record.row)
        return ObjectFit(
            micro=self.chunks(row)[0][0].copy() if self.spec.payload else None,
            coefficients=values["coefficients"].copy(),
            regime=int(values["regime"]),
            metrics=dict(zip(self.header.metric_names, values["metrics"].tolist(), strict=True)),
        )

    def read_base_planes(self) -> NDArray[np.float32] | None:
        """Return the base planes of the fit, f32 [M, 3, F_mac, K, K]; None where it has none.

        Raises:
            UsageError: its shared components are not there.
            IntegrityError: they are damaged.
        """
        return read_base_planes(self.store, self.header.shared_version) if self.header.n_base else None

    def metrics(self) -> dict[str, NDArray[np.float32]]:
        """Return metric name -> f32 [N]; NaN where there is no value."""
        values = self.derived("metrics")
        return {name: values[:, column] for column, name in enumerate(self.header.metric_names)}

    def regime(self) -> NDArray[np.uint8]:
        """Return the regime of every row, u8 [N]; 0 for rows without a fit."""
        return self.derived("regime")

    def coefficients(self) -> NDArray[np.float32]:
        """Return the coefficients of every row, f32 [N, M]; NaN for rows without a fit."""
        if not self.header.n_base:
            return np.empty((self.header.n_objects, 0), np.float32)
        return self.derived("coefficients")

    def values(self, row: int) -> dict[str, NDArray[Any]]:
        """Return the sidecar's arrays for one row, read-only; coefficients are empty without base planes."""
        return {"coefficients": np.empty(0, np.float32), **super().values(row)}


class PlanesShardBuilder(ShardBuilder):
    """Builds one shard of a fit."""

    _target: PlanesStore

    def add(self, row: int, fit: ObjectFit, info: dict[str, Any] | None = None) -> None:
        """Encode and keep the fit of one object.

        Args:
            row: Row of the plan.
            fit: The fit; micro planes are rounded to the header's dtype.
            info: Timings and the like, JSON values.

        Raises:
            ValueError: wrong shape, values that are not finite or do not fit the stored type, or a metric
                that the header does not name.
        """
        header = self._target.header
        unknown = fit.metrics.keys() - set(header.metric_names)
        if unknown:
            raise ValueError(f"metrics {sorted(unknown)} are not in the fit's header {header.metric_names}")
        if fit.regime not in (1, 2):
            raise ValueError(f"regime {fit.regime}: must be 1 or 2")
        coefficients = np.asarray(fit.coefficients, np.float32)
        if coefficients.shape != (header.n_base,) or not np.isfinite(coefficients).all():
            raise ValueError(f"coefficients {coefficients.shape}: must be {header.n_base} finite numbers")
        values: dict[str, Any] = {
            "metrics": [fit.metrics.get(name, np.nan) for name in header.metric_names],
            "regime": fit.regime,
        }
        if header.n_base:
            values["coefficients"] = coefficients
        self._add(row, values, self._micro_chunks(fit), info)

    def _micro_chunks(self, fit: ObjectFit) -> list[bytes]:
        spec = self._target.spec.payload
        if (spec is None) != (fit.micro is None):
            raise ValueError(f"micro planes do not match f_mic = {self._target.header.f_mic}")
        if spec is None or fit.micro is None:
            return []
        if fit.micro.shape != spec.shape[1:]:
            raise ValueError(f"micro: {fit.micro.shape}, expected {spec.shape[1:]}")
        with np.errstate(over="ignore"):  # an overflow becomes inf and is refused below
            stored = fit.micro.astype(spec.dtype)
        if not np.isfinite(stored).all():
            raise ValueError(f"micro: values are not finite, or beyond the range of {np.dtype(spec.dtype)}")
        return [encode_chunk(stored[None], spec)]

    def _statistics(self) -> bytes:
        """Statistics of the objects as they are stored, whether they are new or were kept.

        A shard that cannot have them is written without: they serve whoever reads planes, who meets the same
        damage, and `fit_statistics` computes them from the objects then.
        """
        try:
            sketch = sketch_fits(self._stored_fits(), self._target.read_base_planes())
        except (UsageError, IntegrityError) as error:
            LOGGER.warning("shard %d is written without channel statistics: %s", self.shard, error)
            return b""
        return sketch.encode() if sketch else b""

    def _stored_fits(self) -> Iterator[tuple[NDArray[Any] | None, NDArray[np.float32]]]:
        """Yield micro planes and coefficients of the objects that have a fit."""
        spec, key = self._target.spec, self._target.spec.shard_key(self.shard)
        no_coefficients = np.empty((len(self._rows), 0), np.float32)
        coefficients = self._arrays.get("coefficients", no_coefficients)
        for row, chunks in sorted(self._chunks.items()):
            micro = (
                decode_chunk(chunks[0], spec.payload, key, self._records[row].object_id)[0]
                if spec.payload
                else None
            )
            yield micro, coefficients[row - self._rows.start]


def planes_spec(plan: Plan, header: FitHeader, config_hash: str) -> GroupSpec:
    """Describe `planes.zarr` of one fit."""
    n, s, k = header.n_objects, header.objects_per_shard, header.resolution
    group = layout.fit_group(header.name)
    tail = (3, header.f_mic, k, k)
    micro = ArraySpec(
        "micro",
        shape=(n, *tail),
        chunk=(1, *tail),
        dtype=np.dtype(header.dtype).newbyteorder("<").str,
        fill=np.nan,
        dimensions=("object", "plane", "feature", "row", "column"),
        shard=(s, *tail),
        attributes={"planes": list(header.plane_order)},
    )
    names = {"names": list(header.metric_names)}
    n_metrics = (len(header.metric_names),)
    coefficients = derived_array("coefficients", n, s, (header.n_base,), "<f4", np.nan, ("base_plane",))
    return GroupSpec(
        kind="planes",
        group=group,
        done=layout.fit_done(header.name),
        n_objects=n,
        objects_per_shard=s,
        payload=micro if header.f_mic else None,
        derived=(
            *([coefficients] if header.n_base else []),
            derived_array("metrics", n, s, n_metrics, "<f4", np.nan, ("metric",), names),
            derived_array("regime", n, s, (), "|u1", 0),
            derived_array(CLASS, n, s, (), "<i4", -1, (), {"classes": list(plan.classes)}),
            derived_array(STATUS, n, s, (), "|u1", 0, (), {"values": {"absent": 0, "ok": 1, "failed": 2}}),
        ),
        sidecar_folder=layout.fit_sidecars(header.name),
        config_hash=config_hash,
        attributes={"shared_version": header.shared_version, "plan_hash": plan.plan_hash},
    )


def read_fit_header(store: Store, name: str) -> FitHeader:
    """Read the header of a fit; raises UsageError when there is no such fit."""
    return _read_header(store, name)[0]


def list_fits(store: Store) -> list[str]:
    """Return the names of all fits of a dataset."""
    return [name for name in store.list(layout.FITS) if not name.endswith(".json")]


def publish_fit(store: Store, name: str) -> None:
    """Make a fit the one that `PlanesStore.open` and `open_planes` open by default."""
    read_fit_header(store, name)
    document = {"schema_version": SCHEMA_VERSION, "fit": name}
    store.replace(layout.PUBLISHED_FIT, dump_document(document))


def published_fit(store: Store) -> str:
    """Return the name of the published fit; raises UsageError when none is."""
    try:
        document = parse_document(store.read(layout.PUBLISHED_FIT), layout.PUBLISHED_FIT)
    except FileNotFoundError as error:
        raise UsageError(
            f"{store.url} has no published fit; name one of {list_fits(store) or 'none yet'}, "
            "or run fpipe fit-objects"
        ) from error
    return str(document["fit"])


def _read_header(store: Store, name: str) -> tuple[FitHeader, str]:
    """Return a fit's header and its stored config hash."""
    key = layout.fit_header(name)
    try:
        document = parse_document(store.read(key), key)
    except FileNotFoundError as error:
        raise UsageError(f"{store.url} has no fit {name!r}; it has {list_fits(store) or 'none'}") from error
    return FitHeader(**document["header"]), str(document["config_hash"])
