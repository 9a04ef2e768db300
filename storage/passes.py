"""Optional passes of the rendered views: `depth.zarr` and `normals.zarr`, beside `views.zarr`.

depth f32 [N, V, H, W]: distance along the ray in world units, inf where there is nothing. normals f16
[N, V, H, W, 3]: unit, world frame, towards the camera, 0 where there is nothing. Both hold for the centre of
the pixel. Each pass is a sharded group of its own, cut like the views: a shard of a pass is committed before
the shard of the views, so a done shard of views has its passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import layout
from .arrays import ArraySpec
from .builder import ShardBuilder
from .errors import UsageError
from .group import CLASS, STATUS, GroupSpec, check_group, create_group, derived_array
from .plan import Plan, read_plan
from .sharded import ShardedStore
from .store import Store
from .views import ZSTD_LEVEL, check_value, view_chunks


@dataclass(frozen=True)
class PassKind:
    """One kind of pass.

    Attributes:
        dtype: numpy dtype string.
        tail: Shape of one pixel.
        dimensions: Names of the pixel's axes.
        attributes: Zarr attributes that say what the numbers are.
    """

    dtype: str
    tail: tuple[int, ...]
    dimensions: tuple[str, ...]
    attributes: dict[str, Any]


PASSES: dict[str, PassKind] = {
    "depth": PassKind("<f4", (), (), {"unit": "world", "meaning": "distance along the ray; inf: nothing"}),
    "normals": PassKind("<f2", (3,), ("xyz",), {"frame": "world", "meaning": "unit normal; 0: nothing"}),
}


class PassStore(ShardedStore):
    """One pass of one dataset. Use `create_or_open` to write, `open` to read."""

    @classmethod
    def create_or_open(cls, store: Store, plan: Plan, name: str) -> PassStore:
        """Make the group for a stored plan, or open the existing one.

        Raises:
            StoreMismatchError: the existing one belongs to another plan.
        """
        spec = pass_spec(plan, name)
        create_group(store, spec)
        return cls(store, plan, spec)

    @classmethod
    def open(cls, store: Store, name: str) -> PassStore:
        """Open an existing pass; raises UsageError when there is none."""
        if name not in PASSES:
            raise UsageError(f"no pass {name!r}: there are {', '.join(PASSES)}")
        plan = read_plan(store)
        spec = pass_spec(plan, name)
        check_group(store, spec)
        return cls(store, plan, spec)

    def _spec_of(self, plan: Plan) -> GroupSpec:
        return pass_spec(plan, self.spec.kind)

    def builder(self, shard: int, attempt: str) -> PassShardBuilder:
        """Start building one shard under an attempt id that no other writer uses."""
        return PassShardBuilder(self, shard, attempt)

    def read(self, row: int) -> NDArray[Any]:
        """Return the pass of all views of one object, [V, H, W] or [V, H, W, 3].

        Raises:
            ObjectUnavailableError: it failed, is absent, or its shard is not done.
            IntegrityError: stored bytes are damaged.
        """
        values: NDArray[Any] = np.concatenate([chunk[0] for chunk in self.chunks(row)])
        return values[: self.plan.header.n_views]


class PassShardBuilder(ShardBuilder):
    """Builds one shard of a pass."""

    def add(self, row: int, values: NDArray[Any], info: dict[str, Any] | None = None) -> None:
        """Compress and keep the pass of one object.

        Args:
            row: Row of the plan.
            values: The pass of all V views.
            info: JSON values.

        Raises:
            ValueError: a shape or dtype is wrong.
        """
        spec = self._target.spec.payload
        assert spec is not None
        check_value(spec.name, values, spec.shape[1:], np.dtype(spec.dtype), finite=False)
        self._add(row, {}, view_chunks(values, spec), info)


def stored_passes(store: Store) -> list[str]:
    """Return the names of the passes that a dataset has."""
    return [name for name in PASSES if store.exists(layout.zarr_metadata(layout.pass_group(name)))]


def pass_spec(plan: Plan, name: str) -> GroupSpec:
    """Describe the group of one pass of one plan."""
    header, kind = plan.header, PASSES[name]
    n, v, s = plan.n_rows, header.n_views, header.objects_per_views_shard
    depth = min(header.views_per_chunk, v)
    size = (header.height, header.width, *kind.tail)
    payload = ArraySpec(
        name,
        shape=(n, v, *size),
        chunk=(1, depth, *size),
        dtype=kind.dtype,
        fill=np.nan,
        dimensions=("object", "view", "row", "column", *kind.dimensions),
        shard=(s, -(-v // depth) * depth, *size),
        zstd_level=ZSTD_LEVEL,
        attributes=kind.attributes,
    )
    return GroupSpec(
        kind=name,
        group=layout.pass_group(name),
        done=layout.pass_done(name),
        n_objects=n,
        objects_per_shard=s,
        payload=payload,
        derived=(
            derived_array(CLASS, n, s, (), "<i4", -1, (), {"classes": list(plan.classes)}),
            derived_array(STATUS, n, s, (), "|u1", 0, (), {"values": {"absent": 0, "ok": 1, "failed": 2}}),
        ),
        config_hash=plan.plan_hash,
        attributes={"render_config_hash": header.render_config_hash},
    )
