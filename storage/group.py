"""What defines a sharded group: its arrays, its keys, its Zarr metadata, and whose configuration made it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .arrays import ArraySpec, group_metadata
from .documents import SCHEMA_VERSION, check_schema
from .errors import IntegrityError, StoreMismatchError, UsageError
from .layout import zarr_chunk, zarr_metadata
from .store import Store

STATUS = "status"
CLASS = "class"


@dataclass(frozen=True)
class GroupSpec:
    """Everything that defines one sharded group.

    Attributes:
        kind: "views" or "planes".
        group: Key of the Zarr group.
        done: Folder of the done markers.
        n_objects: Rows N.
        objects_per_shard: Rows per shard S.
        payload: The sharded array, None when shards are sidecars alone.
        derived: Arrays with one value per row, rebuilt from sidecars.
        config_hash: Hash of what produces the content; another one is refused.
        attributes: Further Zarr attributes of the group.
        sidecar_folder: Where shard files lie when there is no payload array.
    """

    kind: str
    group: str
    done: str
    n_objects: int
    objects_per_shard: int
    payload: ArraySpec | None
    derived: tuple[ArraySpec, ...]
    config_hash: str
    attributes: dict[str, Any]
    sidecar_folder: str = ""

    def shard_key(self, shard: int) -> str:
        """Return the key of one shard's file."""
        if self.payload is None:
            return f"{self.sidecar_folder}/{shard}"
        return zarr_chunk(self.group, self.payload.name, shard, len(self.payload.shape))

    @property
    def chunks_per_object(self) -> int:
        """Chunks of one object in the payload array."""
        return self.payload.chunks_per_row() if self.payload else 0

    @property
    def chunks_per_shard(self) -> int:
        """Entries of a shard's index."""
        return self.objects_per_shard * self.chunks_per_object

    @property
    def arrays(self) -> tuple[ArraySpec, ...]:
        """All arrays of the group."""
        return (self.payload, *self.derived) if self.payload else self.derived

    def derived_spec(self, name: str) -> ArraySpec:
        """Return the derived array of this name."""
        return next(spec for spec in self.derived if spec.name == name)


def derived_array(
    name: str,
    n_objects: int,
    objects_per_shard: int,
    tail: tuple[int, ...],
    dtype: str,
    fill: float | bool,
    dimensions: tuple[str, ...] = (),
    attributes: dict[str, Any] | None = None,
) -> ArraySpec:
    """Describe an array with one value of shape `tail` per row and one chunk per shard."""
    return ArraySpec(
        name,
        shape=(n_objects, *tail),
        chunk=(objects_per_shard, *tail),
        dtype=dtype,
        fill=fill,
        dimensions=("object", *dimensions),
        attributes=attributes or {},
    )


def create_group(store: Store, spec: GroupSpec) -> None:
    """Make the Zarr metadata unless it is there, the group's own last; checks what is there.

    Raises:
        StoreMismatchError: the group was made with another configuration.
    """
    store.sweep()
    own = zarr_metadata(spec.group)
    if not store.exists(own):
        attributes = {
            "schema_version": SCHEMA_VERSION,
            "kind": spec.kind,
            "config_hash": spec.config_hash,
            **spec.attributes,
        }
        for name, document in group_metadata(spec.arrays, attributes).items():
            store.create(f"{spec.group}/{name}", document)
    check_group(store, spec)


def check_group(store: Store, spec: GroupSpec) -> None:
    """Raise unless the stored group is the one that `spec` describes.

    Raises:
        UsageError: there is none.
        SchemaError: unknown major version.
        StoreMismatchError: made with another configuration.
    """
    key = zarr_metadata(spec.group)
    try:
        attributes = json.loads(store.read(key)).get("attributes", {})
    except FileNotFoundError as error:
        raise UsageError(f"{store.url} has no {spec.kind} yet ({key} is missing)") from error
    except ValueError as error:
        raise IntegrityError(f"{key}: not valid JSON ({error})", key=key) from error
    check_schema(str(attributes.get("schema_version", "")), key)
    if attributes.get("config_hash") != spec.config_hash:
        raise StoreMismatchError(
            f"{key}: config_hash {attributes.get('config_hash')} (existing) -> {spec.config_hash} (asked for)"
        )
