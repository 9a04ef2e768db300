"""Files of any fsspec file system; S3 is the one that matters.

Create-only writes are one PutObject with `If-None-Match: *`, never multipart, because some servers ignore
the condition there. Every request is tried again as `retries` says. Where the answer to a conditional write
was lost, the object is read back: bytes equal to ours mean that we wrote it.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

import fsspec

from . import layout
from .conditions import HONOURED, UNKNOWN, Conditions, dump_conditions, parse_conditions
from .errors import EnvironmentProblem, IntegrityError, StoreUnusableError, TransientError
from .parts import Part
from .redaction import check_url
from .remote_errors import means_exists, means_unsupported, translated
from .remote_reads import Outcomes, Span, fill_parts
from .remote_requests import Entry, FsspecRequests, Head, Requests
from .retries import retried

LOGGER = logging.getLogger(__name__)

T = TypeVar("T")
Names = list[str]  # the class below has a method named list

_GUARD = threading.Lock()
_SWAPS: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()  # those of this process, by object
_NO_VERSION = '"00000000000000000000000000000000"'


class RemoteFiles:
    """The `Files` of one fsspec URL.

    Args:
        url: The URL.
        options: For the file system; they go before fsspec's configuration and our defaults.
    """

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self.url = url.rstrip("/")
        try:
            check_url(url)
            if url.startswith(("s3://", "s3a://")):
                from .s3_requests import S3Requests, s3_options

                self.fs, self.root = fsspec.core.url_to_fs(url, **s3_options(options))
                self.requests: Requests = S3Requests(self.fs)
            else:
                self.fs, self.root = fsspec.core.url_to_fs(url, **options)
                self.requests = FsspecRequests(self.fs)
        except (ImportError, ValueError) as error:
            raise EnvironmentProblem(f"{url}: cannot be opened: {error}") from error
        self._conditions: Conditions | None = None
        self._is_settled = False

    def read(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes [start, end) of one object; a negative start counts from the end."""
        return self._retried(key, lambda: self.requests.get(self._path(key), start, end))

    def read_tails(self, keys: Sequence[str], n: int) -> Outcomes:
        """Return the last `n` bytes of each object, or why they cannot be read."""
        return self._read_spans([Span(key, -n) for key in keys])

    def read_into(self, parts: Sequence[Part]) -> Iterator[tuple[int, Exception | None]]:
        """Fill the buffers of parts; yields each part's position and what went wrong with it."""
        return fill_parts(parts, self._read_spans)

    def _read_spans(self, spans: Sequence[Span]) -> Outcomes:
        """Read spans at the same time, and those again that met a fault which may pass."""
        outcomes: Outcomes = [EOFError()] * len(spans)
        wanted = list(range(len(spans)))

        def attempt() -> None:
            asked = [replace(spans[position], key=self._path(spans[position].key)) for position in wanted]
            for position, outcome in zip(wanted, self.requests.get_many(asked), strict=True):
                outcomes[position] = self._judged(outcome, spans[position].key)
            failures = {position: outcomes[position] for position in wanted}
            wanted[:] = [place for place, failure in failures.items() if isinstance(failure, TransientError)]
            for position in wanted[:1]:
                raise cast(TransientError, outcomes[position])

        with suppress(TransientError):  # it is among the outcomes
            retried(attempt)
        return outcomes

    def _judged(self, outcome: bytes | Exception, key: str) -> bytes | Exception:
        if isinstance(outcome, bytes):
            return outcome
        mapped = self._translated(outcome, key)
        if mapped is not outcome:
            mapped.__cause__ = outcome
        return mapped if isinstance(mapped, Exception) else outcome

    def size(self, key: str) -> int:
        """Return the size of one object in bytes."""
        return self._head(key).size

    def version(self, key: str) -> str:
        """Return the ETag of one object, or a hash of its content where the file system has none."""
        return self._head(key).version

    def create(self, key: str, data: bytes) -> bool:
        """Write the object unless the key exists, in one request."""
        conditions = self.conditions()

        def write() -> bool:
            if not conditions.create and self._exists(key):
                return False
            return self._put_if(key, data, create=True)

        return self._decided(key, data, write)

    def replace(self, key: str, data: bytes) -> None:
        """Write the object in one request, whether it exists or not."""
        self._retried(key, lambda: self.requests.put(self._path(key), data))

    def swap(self, key: str, data: bytes, version: str) -> bool:
        """Write the object if its version is still this one: `If-Match` on S3, else look and write."""
        conditions = self.settle()

        def write() -> bool:
            if self.version(key) != version:
                return False
            return self._put_if(key, data, version=_condition(version, conditions))

        with _swap_lock(self._where(key)):  # for stores that cannot compare
            return self._decided(key, data, write)

    def list(self, prefix: str) -> list[str]:
        """Return the sorted names directly below `prefix`."""
        return sorted({entry.name for entry in self._entries(prefix)})

    def file_sizes(self, prefix: str) -> dict[str, int]:
        """Return name -> bytes of the objects directly below `prefix`."""
        return {entry.name: entry.size for entry in self._entries(prefix) if not entry.is_folder}

    def find(self, prefix: str) -> dict[str, int]:
        """Return key → size of all objects below `prefix`."""
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        return {start + entry.name: entry.size for entry in self._entries(prefix, recursive=True)}

    def subfolders(self, prefix: str) -> Names:
        """Return the names of the folders directly below `prefix`."""
        return [entry.name for entry in self._entries(prefix) if entry.is_folder]

    def is_folder(self) -> bool:
        """Say whether the URL names a folder, that is a prefix of some object's key."""
        try:
            return any(True for _ in self._entries(""))
        except StoreUnusableError as error:
            if isinstance(error.__cause__, FileNotFoundError):  # no such bucket
                return False
            raise

    def sweep(self) -> None:
        """Nothing to do: uploads appear whole or not at all."""

    def conditions(self) -> Conditions:
        """Return what the dataset's record says about conditional writes; honoured where there is none."""
        if self._conditions is None:
            self._conditions = self.recorded_conditions() or HONOURED
        return self._conditions

    def recorded_conditions(self) -> Conditions | None:
        """Return the record, None where there is none; a damaged one promises nothing."""
        try:
            return parse_conditions(self.read(layout.CONDITIONS), layout.CONDITIONS)
        except FileNotFoundError:
            return None
        except IntegrityError as error:
            LOGGER.warning("%s; taken for a store that ignores conditions", error)
            return UNKNOWN

    def settle(self) -> Conditions:
        """Return which conditional writes the store honours; found out and recorded if it is not yet."""
        if not self._is_settled:
            found = self.recorded_conditions()
            self._conditions = self.probe() if found is None or found is UNKNOWN else found
            self._is_settled = True
        return self.conditions()

    def probe(self) -> Conditions:
        """Find out which conditional writes the store honours, and write that down.

        One object is written, tried to be overwritten, and removed; it stays where removing is not permitted.
        """
        key = f"{layout.MAINTENANCE}/probe-{secrets.token_hex(8)}"
        first, second = b"fpipe looks whether conditional writes are honoured", b"overwritten"
        self.replace(key, first)
        create = self._refuses(key, second, create=True)
        swap = bare = False
        if self.requests.swaps and self._refuses(key, second, version=_NO_VERSION):
            swap = self._swaps(key, b"swapped", HONOURED)
            if not swap:
                swap = bare = self._swaps(key, b"swapped", Conditions(bare=True))
        self._discard(key)
        found = Conditions(create, swap, bare)
        self.replace(layout.CONDITIONS, dump_conditions(found))
        return found

    def _refuses(self, key: str, data: bytes, create: bool = False, version: str = "") -> bool:
        """Say whether a write whose condition does not hold is refused, and the object left as it was."""
        before = self.read(key)

        def write() -> bool:
            try:
                self.requests.put(self._path(key), data, create, version)
            except Exception as error:
                if means_exists(error):
                    return True
                if means_unsupported(error):
                    return False
                raise
            return False

        return self._retried(key, write) and self.read(key) == before

    def _swaps(self, key: str, data: bytes, form: Conditions) -> bool:
        """Say whether a write whose version is right is done."""

        def write() -> bool:
            return self._put_if(key, data, version=_condition(self.version(key), form))

        return self._decided(key, data, write)

    def _discard(self, key: str) -> None:
        try:
            self._retried(key, lambda: self.requests.delete(self._path(key)))
        except (StoreUnusableError, TransientError, OSError) as error:
            LOGGER.warning("%s/%s stays behind, it may be deleted: %s", self.url, key, error)

    def _put_if(self, key: str, data: bytes, create: bool = False, version: str = "") -> bool:
        """Write under a condition and say whether it held; servers without conditions only get a look."""
        path = self._path(key)
        try:
            self.requests.put(path, data, create, version)
        except Exception as error:
            if means_exists(error):
                return False
            if not means_unsupported(error):
                raise
            if create and self._exists(key):
                return False
            self.requests.put(path, data)
        return True

    def _decided(self, key: str, data: bytes, write: Callable[[], bool]) -> bool:
        """Try a conditional write until its outcome is known.

        Raises:
            TransientError: It stayed unknown.
        """
        unknown = False

        def attempt() -> bool:
            nonlocal unknown
            if not unknown:
                try:
                    return write()
                except Exception as error:
                    unknown = isinstance(self._translated(error, key), TransientError)
                    raise
            return write() or self.requests.get(self._path(key), None, None) == data

        return self._retried(key, attempt)

    def _head(self, key: str) -> Head:
        return self._retried(key, lambda: self.requests.head(self._path(key)))

    def _exists(self, key: str) -> bool:
        try:
            self._head(key)
        except FileNotFoundError:
            return False
        return True

    def _entries(self, prefix: str, recursive: bool = False) -> Iterator[Entry]:
        """Yield what lies below a prefix; each page is tried again by itself."""
        after = ""
        while True:
            page = self._retried(prefix, lambda: self.requests.page(self._path(prefix), recursive, after))  # noqa: B023 called at once
            yield from page.entries
            if not page.after:
                return
            after = page.after

    def _retried(self, key: str, call: Callable[[], T]) -> T:
        def translating() -> T:
            try:
                return call()
            except Exception as error:
                mapped = self._translated(error, key)
                if mapped is error:
                    raise
                raise mapped from error

        return retried(translating)

    def _translated(self, error: BaseException, key: str) -> BaseException:
        return translated(error, self._where(key))

    def _where(self, key: str) -> str:
        return f"{self.url}/{key}" if key else self.url

    def _path(self, key: str) -> str:
        return f"{self.root.rstrip('/')}/{key}" if key else self.root


def _swap_lock(url: str) -> threading.Lock:
    """Return the lock of one object: a slow upload must not keep the lease from being renewed."""
    with _GUARD:
        return _SWAPS.setdefault(url, threading.Lock())


def _condition(version: str, conditions: Conditions) -> str:
    """Return a version as the store compares it, '' where it does not."""
    if not conditions.swap:
        return ""
    return version.strip('"') if conditions.bare else version
