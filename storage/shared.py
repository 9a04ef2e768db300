"""Read shared components without torch: base planes (safetensors) and `shared.json`."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import layout
from .documents import parse_unsealed
from .errors import IntegrityError, UsageError
from .store import Store

BASE_PLANES_FILE = "base_planes.safetensors"
BASE_PLANES_TENSOR = "base_planes"
META_FILE = "shared.json"
_FITS_ONLY = ("regime1/", "mean_code")
"""Files that no rendering needs: results of regime 1, and where fits start."""

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}


def list_shared_versions(store: Store) -> list[str]:
    """Return all finished shared versions (those whose shared.json, written last, exists)."""
    names = [name for name in store.list(layout.SHARED) if not name.endswith(".json")]
    return [name for name in names if store.exists(layout.shared_key(name, META_FILE))]


def read_published_shared(store: Store) -> dict[str, Any] | None:
    """Return {"shared_version", "config"} of the dataset's default shared components, if any."""
    try:
        return parse_unsealed(store.read(layout.PUBLISHED_SHARED), layout.PUBLISHED_SHARED)
    except FileNotFoundError:
        return None


def read_shared_meta(store: Store, shared_version: str) -> dict[str, Any]:
    """Return `shared.json` of one version: geometry, sizes, training record.

    Raises:
        UsageError: there is no such version.
        IntegrityError: not a JSON object, or damaged.
    """
    key = layout.shared_key(shared_version, META_FILE)
    return parse_unsealed(_read(store, key), key)


def rendering_files(store: Store, shared_version: str) -> dict[str, int]:
    """Return the bytes of every file that a rendering needs: autoencoder, base planes, renderer, background.

    Raises:
        UsageError: there is no such version.
    """
    return {
        name: store.size(layout.shared_key(shared_version, name))
        for name in read_shared_meta(store, shared_version)["files"]
        if not name.startswith(_FITS_ONLY)
    }


def read_base_planes(store: Store, shared_version: str) -> NDArray[np.float32]:
    """Return the base planes, f32 [M, 3, F_mac, K, K].

    Raises:
        UsageError: there is no such version.
        IntegrityError: not a safetensors file with that tensor.
    """
    key = layout.shared_key(shared_version, BASE_PLANES_FILE)
    tensors = parse_safetensors(_read(store, key), key)
    if BASE_PLANES_TENSOR not in tensors:
        raise IntegrityError(f"{key}: has {sorted(tensors)}, but no {BASE_PLANES_TENSOR}", key=key)
    return tensors[BASE_PLANES_TENSOR].astype(np.float32)


def parse_safetensors(data: bytes, key: str) -> dict[str, NDArray[Any]]:
    """Decode a safetensors file: header length (u64), JSON header, raw little-endian tensors.

    Types that numpy lacks (bfloat16, float8) raise IntegrityError. The arrays are read-only.
    """
    try:
        (n_header,) = struct.unpack_from("<Q", data)
        header: dict[str, Any] = json.loads(data[8 : 8 + n_header])
        header.pop("__metadata__", None)
        return {name: _tensor(data, 8 + n_header, entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise IntegrityError(f"{key}: not a readable safetensors file ({error!r})", key=key) from error


def _tensor(data: bytes, origin: int, entry: dict[str, Any]) -> NDArray[Any]:
    start, end = entry["data_offsets"]
    return np.frombuffer(data[origin + start : origin + end], _DTYPES[entry["dtype"]]).reshape(entry["shape"])


def _read(store: Store, key: str) -> bytes:
    try:
        return store.read(key)
    except FileNotFoundError as error:
        found = store.list(layout.SHARED)
        raise UsageError(
            f"{store.url} has no {key}; shared versions: {found or 'none'}; run fpipe train-shared"
        ) from error
