"""Channel statistics of a fit: merged from its shards, kept as versioned documents in `fits/<name>/stats/`.

Every shard file carries the statistics of its own objects (see `sketch`), so that a shard that is replaced
brings new ones. The statistics of a fit are the merge over the shards that hold objects; what a stored
version of the same generation has of them is not read again. Its version `g<generation>-n<objects>-<digest>`
names the state: the digest is of the fit's configuration and of the attempt that wrote each shard. Documents
are written once and stay: a model that was trained with one can go on with it after the fit has changed.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from . import layout
from .documents import content_hash, dump_document, parse_document
from .errors import IntegrityError, StaleSnapshotError, UsageError
from .planes import PlanesStore
from .records import Status
from .sketch import QUANTILE_ERROR, ChannelSketch, sketch_fits
from .statistics import ChannelStats
from .store import Store

LOGGER = logging.getLogger(__name__)

REQUESTS: Final = 16
_AT_A_TIME: Final = 64  # shards: what is held while the slowest of them is read
_SCHEMA_VERSION: Final = "1.0"


def snapshot_statistics(planes: PlanesStore, status: NDArray[np.uint8]) -> ChannelStats:
    """Return the statistics of a snapshot: the stored ones, or else merged from its shards.

    Args:
        planes: The fit; its snapshot is that of `status`.
        status: Status of every row, u8 [N].

    Raises:
        UsageError: no object has a fit.
        IntegrityError: a stored document or shard is damaged.
        StaleSnapshotError: a shard was replaced since the snapshot began.
    """
    found = find_statistics(planes, status)
    return merge_statistics(planes, status)[0] if found is None else found


def find_statistics(planes: PlanesStore, status: NDArray[np.uint8]) -> ChannelStats | None:
    """Return the stored statistics of a snapshot; None where there are none of exactly this one."""
    journal = planes.journal()
    if journal.open:
        return None  # an open shard may be of either generation
    prefix = _version_prefix(journal.generation, _n_objects(status))
    shards = {str(shard) for shard in held_shards(planes, status)}
    for version in statistics_versions(planes.store, planes.header.name):
        if version.startswith(prefix):
            document = _read_document(planes, version)
            if document["shards"].keys() == shards:  # within a generation, a shard has one content
                return _parse(document)
    return None


def read_statistics(planes: PlanesStore, version: str) -> ChannelStats:
    """Return one stored version, of whichever state of the fit it is.

    Raises:
        UsageError: there is no such version; names those that there are.
        IntegrityError: it is damaged.
    """
    try:
        return _parse(_read_document(planes, version))
    except FileNotFoundError as error:
        name = planes.header.name
        versions = statistics_versions(planes.store, name)
        raise UsageError(
            f"fit {name} of {planes.store.url} has no channel statistics {version!r}; it has "
            f"{versions or 'none'}; fpipe stats {planes.store.url} --name {name} stores those of the present"
        ) from error


def write_statistics(planes: PlanesStore) -> ChannelStats:
    """Store the statistics of the present state of a fit, unless they are there; returns them.

    Raises:
        UsageError: no object has a fit.
        StaleSnapshotError: shards are being replaced at this moment.
    """
    planes.refresh()
    status = planes.status()
    if planes.journal().open:
        raise StaleSnapshotError(
            f"{planes.spec.group}: shards are being replaced; store the statistics after that"
        )
    found = find_statistics(planes, status)
    if found is not None:
        return found
    stats, document = merge_statistics(planes, status)
    planes.store.create(layout.fit_statistics(planes.header.name, stats.version), dump_document(document))
    return stats


def rebuild_statistics(planes: PlanesStore, keys: Sequence[str]) -> list[str]:
    """Write damaged documents anew where they are of the present state of the fit; returns their keys."""
    if not keys or planes.journal().open:
        return []
    try:
        stats, document = merge_statistics(planes, planes.status())
    except (IntegrityError, UsageError):
        return []  # damaged shards first
    key = layout.fit_statistics(planes.header.name, stats.version)
    if key not in keys:
        return []
    planes.store.replace(key, dump_document(document))
    return [key]


def merge_statistics(planes: PlanesStore, status: NDArray[np.uint8]) -> tuple[ChannelStats, dict[str, Any]]:
    """Merge the statistics of a snapshot from its shards; returns them and their document.

    Shards that were written without statistics are read whole.

    Raises:
        UsageError: no object has a fit.
        IntegrityError, StaleSnapshotError: See `snapshot_statistics`.
    """
    shards = held_shards(planes, status)
    if not shards:
        raise UsageError(
            f"fit {planes.header.name} of {planes.store.url} has no objects yet, and so no statistics"
        )
    total, attempts = _known_part(planes, shards)
    for shard, attempt, own in _each_sketch(planes, [n for n in shards if str(n) not in attempts]):
        attempts[str(shard)] = attempt
        total = own if total is None else total.merged(own)
    assert total is not None
    document = _document(planes, total, planes.journal().generation, attempts)
    return _parse(document), document


def statistics_versions(store: Store, fit: str) -> list[str]:
    """Return the stored versions of a fit's statistics."""
    names = store.list(layout.fit_statistics(fit))
    return [name.removesuffix(".json") for name in names if name.endswith(".json")]


def check_statistics(planes: PlanesStore, version: str) -> None:
    """Raise IntegrityError unless a stored version is whole and has the name that its content gives."""
    key = layout.fit_statistics(planes.header.name, version)
    document = _read_document(planes, version)
    named = {name: document[name] for name in ("generation", "n_objects", "config_hash", "shards")}
    if _version(**named) != version or document["config_hash"] != planes.spec.config_hash:
        raise IntegrityError(f"{key}: is the document of another version or fit", key=key)


def is_of_present(planes: PlanesStore, version: str) -> bool:
    """Say whether a version can be merged again: its state is the present one, as far as its name tells."""
    try:
        n_objects = _n_objects(planes.status())
    except IntegrityError:  # is rebuilt before statistics are
        return True
    return version.startswith(_version_prefix(planes.journal().generation, n_objects))


def held_shards(planes: PlanesStore, status: NDArray[np.uint8]) -> list[int]:
    """Return the shards that hold at least one object, in order."""
    rows = np.flatnonzero(status == Status.OK)
    return [int(shard) for shard in np.unique(rows // planes.spec.objects_per_shard)]


def _known_part(planes: PlanesStore, shards: Sequence[int]) -> tuple[ChannelSketch | None, dict[str, str]]:
    """Return the largest stored version of some of these shards: a growing fit need not merge them again."""
    journal, wanted = planes.journal(), {str(shard) for shard in shards}
    best: tuple[ChannelSketch | None, dict[str, str]] = None, {}
    if journal.open:
        return best
    for version in statistics_versions(planes.store, planes.header.name):
        if version.startswith(f"g{journal.generation}-"):  # within a generation, a shard has one content
            try:
                document = _read_document(planes, version)
            except IntegrityError as error:
                LOGGER.warning("%s; merging without it", error)
                continue
            if len(best[1]) < len(document["shards"]) and document["shards"].keys() <= wanted:
                best = _parse(document).sketch, dict(document["shards"])
    return best


def _each_sketch(planes: PlanesStore, shards: Sequence[int]) -> Iterator[tuple[int, str, ChannelSketch]]:
    """Yield (shard, attempt, its statistics) in order, reading several shards at a time."""

    def read(shard: int) -> tuple[str, bytes | None]:
        return planes.sidecar(shard).attempt, planes.statistics(shard)

    base_planes: list[NDArray[np.float32] | None] = []  # read once, and only where something is missing
    with ThreadPoolExecutor(REQUESTS) as pool:
        for start in range(0, len(shards), _AT_A_TIME):
            part = shards[start : start + _AT_A_TIME]
            for shard, (attempt, encoded) in zip(part, pool.map(read, part), strict=True):
                if encoded is None:
                    base_planes = base_planes or [planes.read_base_planes()]
                    yield shard, attempt, _sketch_of_shard(planes, shard, base_planes[0])
                else:
                    yield shard, attempt, ChannelSketch.decode(encoded)


def _sketch_of_shard(
    planes: PlanesStore, shard: int, base_planes: NDArray[np.float32] | None
) -> ChannelSketch:
    records = planes.sidecar(shard).objects
    fits = (planes.read(record.row) for record in records if record.status == Status.OK)
    found = sketch_fits(((fit.micro, fit.coefficients) for fit in fits), base_planes)
    assert found is not None, "shards without objects are not asked for"
    return found


def _version_prefix(generation: int, n_objects: int) -> str:
    return f"g{generation}-n{n_objects}-"


def _version(generation: int, n_objects: int, config_hash: str, shards: dict[str, str]) -> str:
    digest = content_hash({"generation": generation, "config_hash": config_hash, "shards": shards})
    return _version_prefix(generation, n_objects) + digest[:16]


def _n_objects(status: NDArray[np.uint8]) -> int:
    return int((status == Status.OK).sum())


def _document(
    planes: PlanesStore, sketch: ChannelSketch, generation: int, shards: dict[str, str]
) -> dict[str, Any]:
    identity: dict[str, Any] = {
        "generation": generation,
        "n_objects": sketch.n_objects,
        "config_hash": planes.spec.config_hash,
        "shards": shards,
    }
    stats = ChannelStats(_version(**identity), planes.header.f_mic, sketch)
    return {
        "schema_version": _SCHEMA_VERSION,
        "kind": "channel statistics",
        "version": stats.version,
        "fit": planes.header.name,
        "shared_version": planes.header.shared_version,
        **identity,
        "f_mic": stats.f_mic,
        "n_channels": stats.n_channels,
        "values_per_channel": stats.values_per_channel,
        "quantile_relative_error": QUANTILE_ERROR,
        "figures": stats.figures(),
        "sketch": base64.b64encode(sketch.encode()).decode(),
    }


def _read_document(planes: PlanesStore, version: str) -> dict[str, Any]:
    key = layout.fit_statistics(planes.header.name, version)
    return parse_document(planes.store.read(key), key)


def _parse(document: dict[str, Any]) -> ChannelStats:
    sketch = ChannelSketch.decode(base64.b64decode(document["sketch"]))
    return ChannelStats(document["version"], document["f_mic"], sketch)
