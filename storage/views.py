"""`views.zarr`: the rendered or imported views of all objects.

Arrays (N objects, V views): images u8 [N, V, H, W, 4]; per-object arrays cam2world f32 [N, V, 4, 4],
intrinsics f32 [N, V, 3, 3], heldout bool [N, V], mesh_to_world f32 [N, 4, 4], has_alpha bool [N],
class i32 [N] (position in the attribute `classes`, -1 for none), status u8 [N] (see `records.Status`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import layout
from .arrays import ArraySpec, encode_chunk
from .builder import ShardBuilder
from .group import CLASS, STATUS, GroupSpec, check_group, create_group, derived_array
from .plan import Plan, read_plan
from .records import ObjectViews
from .sharded import ShardedStore
from .store import Store

ZSTD_LEVEL = 5


class ViewsStore(ShardedStore):
    """The views of one dataset. Use `create_or_open` to write, `open` to read."""

    @classmethod
    def create_or_open(cls, store: Store, plan: Plan) -> ViewsStore:
        """Make `views.zarr` for a stored plan, or open the existing one.

        Raises:
            StoreMismatchError: the existing one belongs to another plan.
        """
        spec = views_spec(plan)
        create_group(store, spec)
        return cls(store, plan, spec)

    @classmethod
    def open(cls, store: Store) -> ViewsStore:
        """Open existing views; raises UsageError when there are none."""
        plan = read_plan(store)
        spec = views_spec(plan)
        check_group(store, spec)
        return cls(store, plan, spec)

    def _spec_of(self, plan: Plan) -> GroupSpec:
        return views_spec(plan)

    def builder(self, shard: int, attempt: str) -> ViewsShardBuilder:
        """Start building one shard under an attempt id that no other writer uses."""
        return ViewsShardBuilder(self, shard, attempt)

    def read(self, row: int) -> ObjectViews:
        """Return all views of one object, checked against their checksums.

        Raises:
            ObjectUnavailableError: it failed, is absent, or its shard is not done.
            IntegrityError: stored bytes are damaged.
        """
        return self.read_views(row, slice(None))

    def read_views(self, row: int, views: slice | list[int] | NDArray[np.integer[Any]]) -> ObjectViews:
        """Return some views of one object, in the order asked for; fetches only the chunks between them.

        Args:
            row: Row of the object.
            views: A slice, view numbers, or a boolean mask [V].
        """
        wanted = np.arange(self.plan.header.n_views)[views]
        values = self.values(self.ok_record(row).row)
        return ObjectViews(
            images=self._images(row, wanted),
            cam2world=values["cam2world"][wanted],
            intrinsics=values["intrinsics"][wanted],
            heldout=values["heldout"][wanted],
            mesh_to_world=values["mesh_to_world"].copy(),
            has_alpha=bool(values["has_alpha"]),
        )

    def _images(self, row: int, wanted: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        assert self.spec.payload is not None
        header, depth = self.plan.header, self.spec.payload.chunk[1]
        images = np.empty((len(wanted), header.height, header.width, 4), np.uint8)
        if not len(wanted):
            return images
        numbers = range(int(wanted.min()) // depth, int(wanted.max()) // depth + 1)
        for number, chunk in zip(numbers, self.chunks(row, numbers), strict=True):
            here = wanted // depth == number
            images[here] = chunk[0, wanted[here] % depth]
        return images


class ViewsShardBuilder(ShardBuilder):
    """Builds one shard of `views.zarr`."""

    def add(self, row: int, views: ObjectViews, info: dict[str, Any] | None = None) -> None:
        """Compress and keep the views of one object.

        Args:
            row: Row of the plan.
            views: All V views.
            info: Timings and the like, JSON values.

        Raises:
            ValueError: a shape or dtype is wrong, or cameras are not finite.
        """
        spec = self._target.spec.payload
        assert spec is not None
        values = {
            "cam2world": views.cam2world,
            "intrinsics": views.intrinsics,
            "heldout": views.heldout,
            "mesh_to_world": views.mesh_to_world,
            "has_alpha": np.bool_(views.has_alpha),
        }
        check_value("images", views.images, spec.shape[1:], np.dtype(np.uint8))
        for name, value in values.items():
            array = self._target.spec.derived_spec(name)
            check_value(name, np.asarray(value), array.shape[1:], np.dtype(array.dtype))
        self._add(row, values, view_chunks(views.images, spec), info)


def views_spec(plan: Plan) -> GroupSpec:
    """Describe `views.zarr` of one plan."""
    header = plan.header
    n, v, s = plan.n_rows, header.n_views, header.objects_per_views_shard
    depth = min(header.views_per_chunk, v)
    size = (header.height, header.width, 4)
    images = ArraySpec(
        "images",
        shape=(n, v, *size),
        chunk=(1, depth, *size),
        dtype="|u1",
        fill=0,
        dimensions=("object", "view", "row", "column", "rgba"),
        shard=(s, -(-v // depth) * depth, *size),
        zstd_level=ZSTD_LEVEL,
        attributes={"colour": "straight-alpha sRGB"},
    )
    pixels = {"unit": "px"}
    classes = {"classes": list(plan.classes)}
    opencv = {"axes": "OpenCV: +x right, +y down, +z forward"}
    return GroupSpec(
        kind="views",
        group=layout.VIEWS_GROUP,
        done=layout.VIEWS_DONE,
        n_objects=n,
        objects_per_shard=s,
        payload=images,
        derived=(
            derived_array("cam2world", n, s, (v, 4, 4), "<f4", np.nan, ("view", "to", "from"), opencv),
            derived_array("intrinsics", n, s, (v, 3, 3), "<f4", np.nan, ("view", "to", "from"), pixels),
            derived_array("heldout", n, s, (v,), "|b1", False, ("view",)),
            derived_array("mesh_to_world", n, s, (4, 4), "<f4", np.nan, ("to", "from")),
            derived_array("has_alpha", n, s, (), "|b1", False),
            derived_array(CLASS, n, s, (), "<i4", -1, (), classes),
            derived_array(STATUS, n, s, (), "|u1", 0, (), {"values": {"absent": 0, "ok": 1, "failed": 2}}),
        ),
        config_hash=plan.plan_hash,
        attributes={"render_config_hash": header.render_config_hash},
    )


def view_chunks(values: NDArray[Any], spec: ArraySpec) -> list[bytes]:
    """Encode one object's [V, …] as chunks of several views each."""
    depth = spec.chunk[1]
    chunks = []
    for start in range(0, len(values), depth):
        part = values[start : start + depth]
        if len(part) < depth:  # Zarr stores edge chunks whole, filled up
            part = np.concatenate([part, np.zeros((depth - len(part), *part.shape[1:]), part.dtype)])
        chunks.append(encode_chunk(part[None], spec))
    return chunks


def check_value(
    name: str, value: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any], finite: bool = True
) -> None:
    """Raise ValueError unless an array has this shape and dtype and, where asked for, finite numbers."""
    if value.shape != shape or value.dtype != dtype:
        raise ValueError(f"{name}: {value.dtype} {value.shape}, expected {dtype} {shape}")
    if finite and dtype.kind == "f" and not np.isfinite(value).all():
        raise ValueError(f"{name}: not finite")
