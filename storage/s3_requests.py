"""Single S3 requests through s3fs's client, each answer checked for completeness; nothing is tried twice.

s3fs finds endpoint, credentials, region and addressing as every AWS program does (environment, profiles,
config files), and fsspec's own configuration goes before them. Its file operations are not used: they look
before they read, try again by themselves and take a short body for the whole.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import fsspec
from fsspec.asyn import sync

from .errors import EnvironmentProblem
from .remote_errors import lacks_reason, server_code
from .remote_reads import CONCURRENCY, Outcomes, Span, gathered
from .remote_requests import CutOffError, Entry, Head, Page, RedirectedError

UPLOAD_BYTES_PER_S = 512 * 1024
"""An upload slower than this, for one object, counts as stalled; a full shard may take 94 s."""
UPLOAD_S = 30.0
"""What an upload may take besides."""

# Measured with ranges of 64 KiB from Ceph 16 on the loopback, behind a proxy that adds 20 ms (two cores):
# 1, 4, 8, 16, 32, 64, 128 connections gave 36, 120, 212, 314, 331, 375, 276 reads a second. 32 MiB took at
# most 0.4 s to read and 1.1 s to write there, so nothing healthy is silent for 20 s.
DEFAULTS: dict[str, Any] = {
    "use_listings_cache": False,
    "config_kwargs": {
        "connect_timeout": 10,
        "read_timeout": 20,  # seconds without a byte
        "max_pool_connections": CONCURRENCY,
        "retries": {"mode": "standard", "total_max_attempts": 1},  # `retries` does that
        "user_agent": "fpipe",  # botocore composes its own anew for every request: a tenth of its CPU time
    },
}
T = TypeVar("T")

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def s3_options(options: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return what the file system is made with: our defaults, under fsspec's configuration, under `options`.

    Args:
        options: Given by the caller.
        environment: Read here because AWS_REGION, unlike all the others, is unknown to botocore.
    """
    configured = dict(fsspec.config.conf.get("s3", {}))
    merged = _merged(_merged(DEFAULTS, configured), options)
    region = environment.get("AWS_REGION")
    if region and "AWS_DEFAULT_REGION" not in environment:
        merged["client_kwargs"] = {"region_name": region, **merged.get("client_kwargs", {})}
    return merged


class S3Requests:
    """The `Requests` of S3.

    Args:
        fs: s3fs's file system, made with `s3_options`; nobody else may use it.
    """

    swaps = True

    def __init__(self, fs: Any) -> None:
        self._fs = fs
        fs.retries = 1

    def get(self, path: str, start: int | None, end: int | None) -> bytes:
        """Read the bytes [start, end) of one object; a negative start counts from the end."""
        return self._run(self.fetch(path, start, end))

    def get_many(self, spans: Sequence[Span]) -> Outcomes:
        """Read many spans of paths at the same time; exceptions are returned."""
        return self._run(gathered(lambda span: self.fetch(span.key, span.start, span.end), spans))

    def head(self, path: str) -> Head:
        """Return size and ETag of one object."""
        return self._run(self._explained(self._head(path), path))

    def put(self, path: str, data: bytes, create: bool = False, version: str = "") -> None:
        """Write one object in one request, under a condition if asked to."""
        condition = {"IfNoneMatch": "*"} if create else {"IfMatch": version} if version else {}
        seconds = UPLOAD_S + len(data) / UPLOAD_BYTES_PER_S
        call = self._call("put_object", path, Body=data, **condition)
        self._run(asyncio.wait_for(call, seconds))

    def page(self, path: str, recursive: bool, after: str) -> Page:
        """List one page of what lies below a path."""
        return self._run(self._page(path, recursive, after))

    def delete(self, path: str) -> None:
        """Remove one object."""
        self._run(self._call("delete_object", path))

    async def fetch(self, path: str, start: int | None, end: int | None) -> bytes:
        """Read as `get` does, on the file system's event loop: several may run at once."""
        asked = _range_header(start, end)
        try:
            answer = await self._call("get_object", path, **({"Range": asked} if asked else {}))
        except OSError as error:
            if start is not None and start < 0 and server_code(error) in {"InvalidRange", "416"}:
                return b""  # the end of an empty object
            raise
        async with answer["Body"] as body:
            data = bytes(await body.read())
        _check_length(path, answer, data, start, end)
        return data

    async def _head(self, path: str) -> Head:
        answer = await self._call("head_object", path)
        return Head(int(answer["ContentLength"]), str(answer.get("ETag", "")))

    async def _page(self, path: str, recursive: bool, after: str) -> Page:
        bucket, key, _ = self._fs.split_path(path)
        prefix = f"{key.rstrip('/')}/" if key else ""
        options: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
        if not recursive:
            options["Delimiter"] = "/"
        if after:
            options["ContinuationToken"] = after
        answer = await self._send("list_objects_v2", **options)
        if "IsTruncated" not in answer:  # an empty body passes for an empty listing
            raise CutOffError("the answer to a listing is empty")
        n_before = len(prefix)
        files = [
            Entry(entry["Key"][n_before:], int(entry["Size"]), False) for entry in answer.get("Contents", ())
        ]
        folders = [
            Entry(entry["Prefix"][n_before:].rstrip("/"), 0, True)
            for entry in answer.get("CommonPrefixes", ())
        ]
        entries = tuple(entry for entry in files + folders if entry.name and not entry.name.endswith("/"))
        return Page(entries, answer["NextContinuationToken"] if answer["IsTruncated"] else "")

    async def _explained(self, call: Coroutine[Any, Any, Head], path: str) -> Head:
        """Await a request without a body in its answer; if it is refused, ask for the reason."""
        try:
            return await call
        except OSError as error:
            if lacks_reason(error):
                await self.fetch(path, 0, 1)  # raises the same refusal, with the server's words
            raise

    async def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        bucket, key, _ = self._fs.split_path(path)
        return await self._send(method, Bucket=bucket, Key=key, **arguments)

    async def _send(self, method: str, **arguments: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = await self._fs._call_s3(method, **arguments)
        except RecursionError as error:  # botocore follows a server that names no region for ever
            raise RedirectedError("a redirect without end") from error
        return answer

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        async def awaited() -> T:
            return await call

        result: T = sync(self._fs.loop, awaited)
        return result


def _range_header(start: int | None, end: int | None) -> str:
    if start is None and end is None:
        return ""
    if start is not None and start < 0:
        assert end is None, "a range from the end reaches to the end"
        return f"bytes={start}"
    return f"bytes={start or 0}-{'' if end is None else end - 1}"


def _check_length(path: str, answer: dict[str, Any], data: bytes, start: int | None, end: int | None) -> None:
    """Raise CutOffError for a body that is shorter than what was asked for, or than the answer says.

    A truncating proxy can make the length agree with the body, but not with the range.
    """
    length = answer.get("ContentLength")
    if length is not None and len(data) != int(length):
        raise CutOffError(f"the answer ends after {len(data)} of {length} bytes")
    if not _range_header(start, end):
        return
    found = _CONTENT_RANGE.fullmatch(str(answer.get("ContentRange", "")))
    if found is None:
        if start is not None and (start < 0 and len(data) <= -start):
            return  # all of a short object
        if not start and (end is None or len(data) <= end):
            return
        raise EnvironmentProblem(f"{path}: the store ignores range requests")
    first, last, total = int(found[1]), int(found[2]), found[3]
    if total == "*":
        return
    begin = max(0, int(total) + start) if start is not None and start < 0 else start or 0
    stop = min(int(total), end) if end is not None else int(total)
    if (first, last + 1) != (begin, stop) or len(data) != stop - begin:
        raise CutOffError(f"{len(data)} bytes at {first} came for the range {begin}..{stop}")


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return both, `above` first; dictionaries in them are merged likewise."""
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = _merged(old, value)
        merged[name] = value
    return merged
