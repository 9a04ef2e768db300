"""Canonical JSON: content hashes, and small documents that detect every changed byte."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from typing import Any

import numpy as np

from .errors import IntegrityError, SchemaError

SCHEMA_VERSION = "1.0"


def crc32c(data: bytes | memoryview) -> int:
    """Checksum (Castagnoli) as Zarr's crc32c codec computes it."""
    return int(_google_crc32c().value(np.frombuffer(data, np.uint8)))


@functools.cache
def _google_crc32c() -> Any:
    import google_crc32c  # here, so that what only hashes documents works without it

    return google_crc32c


def plain(value: Any) -> Any:
    """Turn numpy scalars, arrays, tuples and non-finite floats into what JSON has (null for non-finite)."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def canonical_json(value: Any) -> bytes:
    """Serialise with sorted keys and without white space; raises ValueError on NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def content_hash(value: Any) -> str:
    """SHA-256 of the canonical JSON of a plain value, as 64 hex digits. Tuples count as lists."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def dump_document(value: dict[str, Any], readable: bool = False) -> bytes:
    """Serialise a document with its own checksum.

    Args:
        value: Its entries, plain JSON values.
        readable: Put every entry on a line of its own and keep the order; else sorted, without white space.
    """
    sealed = {**value, "crc32c": crc32c(canonical_json(value))}
    if not readable:
        return canonical_json(sealed)
    return json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False).encode()


def parse_document(data: bytes, key: str) -> dict[str, Any]:
    """Read what `dump_document` wrote.

    Raises:
        IntegrityError: any byte differs from what was written.
        SchemaError: the document is sound, but its `schema_version` has an unknown major number.
    """
    body = _parse_object(data, key)
    if body.pop("crc32c", None) is None:
        raise IntegrityError(f"{key}: not a document with a checksum", key=key)
    try:
        sound = data in (dump_document(body), dump_document(body, readable=True))
    except ValueError:  # a flipped byte can make a number infinite, or half a surrogate pair
        sound = False
    if not sound:
        raise IntegrityError(f"{key}: checksum mismatch", key=key)
    check_schema(str(body.get("schema_version", SCHEMA_VERSION)), key)
    return body


def parse_unsealed(data: bytes, key: str) -> dict[str, Any]:
    """Read a document, or a plain JSON object of the time before such files had a checksum.

    Raises:
        IntegrityError: not a JSON object, or its checksum is wrong.
    """
    value = _parse_object(data, key)
    return parse_document(data, key) if "crc32c" in value else value


def _parse_object(data: bytes, key: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise IntegrityError(f"{key}: not valid JSON ({error})", key=key) from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{key}: not a JSON object", key=key)
    return value


def check_schema(version: str, key: str) -> None:
    """Raise SchemaError unless the major number of `version` is ours."""
    if version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        raise SchemaError(
            f"{key}: schema version {version}, but this program reads {SCHEMA_VERSION}; use a matching fpipe",
            key=key,
        )


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Name the keys at which two plain values differ, as 'a.b: existing -> asked for' lines."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found: list[str] = []
        for name in sorted(ours.keys() | theirs.keys()):
            where = f"{path}.{name}" if path else str(name)
            found += differences(ours.get(name, "(unset)"), theirs.get(name, "(unset)"), where)
        return found
    return [] if ours == theirs else [f"{path}: {theirs!r} (existing) -> {ours!r} (asked for)"]
