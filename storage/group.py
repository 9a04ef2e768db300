"""What defines a sharded group: its arrays, its keys, its Zarr metadata, and whose configuration made it.

The group's `zarr.json` holds checksums: `array_checksums`, the crc32c of each array's `zarr.json`, and
`crc32c`, that of the canonical JSON of all else in itself. `n_rows` grows when objects are appended.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .arrays import ArraySpec, array_metadata
from .documents import SCHEMA_VERSION, canonical_json, check_schema, crc32c
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
        checksums = {}
        for name, document in array_metadata(spec.arrays).items():
            key = zarr_metadata(spec.group, name)
            stored = document if store.create(key, document) else store.read(key)
            checksums[name] = crc32c(stored)
        store.create(own, _own_metadata(spec, checksums))
    check_group(store, spec)
    grow_group(store, spec)


def grow_group(store: Store, spec: GroupSpec) -> bool:
    """Give the arrays in Zarr's metadata the rows of the plan, where they have fewer; says whether they had.

    The group's own comes first: it says what the arrays are to be, so that `rebuild_metadata` can go on from
    a kill between any two writes. Nobody who is behind another takes rows away.
    """
    own, grown = zarr_metadata(spec.group), False
    while stored_rows(store, spec) < spec.n_objects:
        version = store.version(own)
        documents = array_metadata(spec.arrays)
        checksums = {name: crc32c(document) for name, document in documents.items()}
        store.swap(own, _grown(_read_own(store, own), spec.n_objects, checksums), version)
        grown = True
    if grown:
        rebuild_metadata(store, spec)
    return grown


def stored_rows(store: Store, spec: GroupSpec) -> int:
    """Return how many rows the metadata of a group gives its arrays."""
    rows = _read_own(store, zarr_metadata(spec.group))["attributes"].get("n_rows")
    if rows is not None:
        return int(rows)
    key = zarr_metadata(spec.group, STATUS)  # of an earlier fpipe: any array tells
    try:
        return int(json.loads(store.read(key))["shape"][0])
    except (FileNotFoundError, ValueError, LookupError, TypeError) as error:
        raise IntegrityError(f"{key}: not the metadata of an array ({error!r})", key=key) from error


def _read_own(store: Store, key: str) -> dict[str, Any]:
    try:
        value = json.loads(store.read(key))
        value["attributes"]["config_hash"]
    except (ValueError, LookupError, TypeError) as error:
        raise IntegrityError(f"{key}: not the metadata of a group ({error})", key=key) from error
    return dict(value)


def _grown(value: dict[str, Any], n_rows: int, checksums: dict[str, int]) -> bytes:
    """Return the group's metadata with more rows; everything else stays as it was."""
    attributes = {name: entry for name, entry in value["attributes"].items() if name != "crc32c"}
    value = {**value, "attributes": {**attributes, "n_rows": n_rows, "array_checksums": checksums}}
    value["attributes"]["crc32c"] = crc32c(canonical_json(value))
    return _group_text(value)


def _own_metadata(spec: GroupSpec, checksums: dict[str, int]) -> bytes:
    attributes = {
        "schema_version": SCHEMA_VERSION,
        "kind": spec.kind,
        "config_hash": spec.config_hash,
        "n_rows": spec.n_objects,
        **spec.attributes,
        "array_checksums": checksums,
    }
    value = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    attributes["crc32c"] = crc32c(canonical_json(value))
    return _group_text(value)


def _group_text(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=2).encode()


def damaged_metadata(store: Store, spec: GroupSpec) -> dict[str, str]:
    """Return key -> what is wrong, for the Zarr metadata of a group that do not match their checksums."""
    key = zarr_metadata(spec.group)
    data = store.read(key)
    try:
        value = json.loads(data)
        attributes = value["attributes"]
        stored = attributes.pop("crc32c", None)
        if stored is None:
            return {key: "has no checksum: an earlier fpipe wrote it, and damage could not be seen"}
        sound = stored == crc32c(canonical_json(value))
        attributes["crc32c"] = stored
        sound = sound and data == _group_text(value)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return {key: f"not readable: {error!r}"}
    if not sound:
        return {key: "checksum mismatch"}
    found = {}
    for name, checksum in attributes["array_checksums"].items():
        array = zarr_metadata(spec.group, name)
        try:
            if crc32c(store.read(array)) != checksum:
                found[array] = "checksum mismatch"
        except FileNotFoundError:
            found[array] = "missing"
    return found


def rebuild_metadata(store: Store, spec: GroupSpec) -> list[str]:
    """Write the metadata of arrays anew where they are damaged; returns the keys.

    Only exactly what was there: another version of zarr may write metadata otherwise, and then they stay.
    """
    damaged = damaged_metadata(store, spec)
    own = zarr_metadata(spec.group)
    if not damaged or own in damaged:
        return []
    checksums = json.loads(store.read(own))["attributes"]["array_checksums"]
    rebuilt = []
    for name, document in array_metadata(spec.arrays).items():
        key = zarr_metadata(spec.group, name)
        if key in damaged and crc32c(document) == checksums[name]:
            store.replace(key, document)
            rebuilt.append(key)
    return rebuilt


def check_group(store: Store, spec: GroupSpec) -> None:
    """Raise unless the stored group is the one that `spec` describes.

    Raises:
        UsageError: there is none.
        SchemaError: unknown major version.
        StoreMismatchError: made with another configuration.
    """
    key = zarr_metadata(spec.group)
    try:
        attributes = dict(json.loads(store.read(key)).get("attributes", {}))
    except FileNotFoundError as error:
        raise UsageError(f"{store.url} has no {spec.kind} yet ({key} is missing)") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{key}: not the metadata of a group ({error})", key=key) from error
    check_schema(str(attributes.get("schema_version", "")), key)
    if attributes.get("config_hash") != spec.config_hash:
        raise StoreMismatchError(
            f"{key}: config_hash {attributes.get('config_hash')} (existing) -> {spec.config_hash} (asked for)"
        )
