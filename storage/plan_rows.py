"""The rows of a plan: immutable segments of JSON lines, and the lookup of rows by number and by object id.

A plan may hold ten million rows, so none is kept as a Python object: the text of a few segments stays in
memory, and a row is parsed when it is asked for. Ids are found by a hash of each, 12 bytes a row.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from . import layout
from .documents import canonical_json
from .errors import IntegrityError
from .records import PlanRow
from .store import Store

SEGMENT_ROWS = 65_536
CACHED_SEGMENTS = 4
"""Segments whose text stays in memory, about 15 MB each."""

_COLUMNS = {
    name: re.compile(rb'"%b":"((?:[^"\\]|\\.)*)"' % name.encode()) for name in ("object_id", "class_name")
}  # no value can hold this: quotes in values are escaped

_loading = threading.Lock()
os.register_at_fork(after_in_child=lambda: globals().update(_loading=threading.Lock()))


@dataclass(frozen=True)
class Segment:
    """One stored run of rows.

    Attributes:
        key: Its key.
        n_rows: Its rows.
        sha256: Of its text.
        stored_sha256: Of the stored, compressed bytes: some of their bits do not change the text. Empty in
            plans that are older than this field.
    """

    key: str
    n_rows: int
    sha256: str
    stored_sha256: str = ""


@dataclass(frozen=True)
class Block:
    """Rows that were planned together: by the first plan, or by one append.

    Attributes:
        start: Its first row.
        n_objects: Its rows, one after the other.
        segments: Where they are stored.
    """

    start: int
    n_objects: int
    segments: tuple[Segment, ...]

    @property
    def end(self) -> int:
        """The row after its last one."""
        return self.start + self.n_objects


@dataclass(frozen=True)
class _Text:
    """The text of one segment, and where each line ends."""

    data: bytes
    ends: NDArray[np.int64]

    def row(self, position: int) -> PlanRow:
        start = int(self.ends[position - 1]) + 1 if position else 0
        return PlanRow(**json.loads(self.data[start : int(self.ends[position])]))


class PlanRows:
    """The planned rows in order; a segment is fetched when one of its rows is first asked for.

    Rows between two blocks hold no object: iterating and slicing pass over them, asking for one of them
    raises IndexError. `len` counts objects.

    Args:
        store: The dataset.
        blocks: In row order.
    """

    def __init__(self, store: Store, blocks: Sequence[Block]) -> None:
        self._store = store
        self._blocks = tuple(blocks)
        self._segments: list[Segment] = []
        self._starts: list[int] = []
        for block in self._blocks:
            start = block.start
            for segment in block.segments:
                self._segments.append(segment)
                self._starts.append(start)
                start += segment.n_rows
        self._texts: OrderedDict[int, _Text] = OrderedDict()
        self._index: tuple[NDArray[np.int64], NDArray[np.integer[Any]]] | None = None

    def __getstate__(self) -> dict[str, Any]:  # hashes are those of one process, and texts can be read again
        return {**self.__dict__, "_texts": OrderedDict(), "_index": None}

    def __len__(self) -> int:
        return sum(block.n_objects for block in self._blocks)

    @property
    def end(self) -> int:
        """The row after the last one."""
        return self._blocks[-1].end

    @overload
    def __getitem__(self, index: int) -> PlanRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[PlanRow]: ...
    def __getitem__(self, index: int | slice) -> PlanRow | list[PlanRow]:
        if isinstance(index, slice):
            wanted = range(*index.indices(self.end))
            return [self[row] for part in self.planned(wanted) for row in part]
        row = index + self.end if index < 0 else index
        if not 0 <= row < self.end:
            raise IndexError(f"row {index} of {self.end}")
        number = bisect_right(self._starts, row) - 1
        position = row - self._starts[number]
        if position >= self._segments[number].n_rows:
            raise IndexError(f"row {row} holds no object")
        return self._text(number).row(position)

    def __iter__(self) -> Iterator[PlanRow]:
        for number, segment in enumerate(self._segments):
            text = self._text(number)
            yield from map(text.row, range(segment.n_rows))

    def planned(self, rows: range) -> list[range]:
        """Return the parts of consecutive rows that hold objects; needs no segment."""
        parts = [
            range(max(rows.start, block.start), min(rows.stop, block.end), rows.step)
            for block in self._blocks
        ]
        return [part for part in parts if part]

    def object_ids(self, rows: NDArray[np.int64] | Sequence[int]) -> list[str]:
        """Return the ids of many ascending rows that hold objects, without parsing what else they say."""
        wanted = np.asarray(rows, np.int64)
        found: list[str] = []
        for number, start in enumerate(self._starts):
            stop = start + self._segments[number].n_rows
            own = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, stop)]
            if len(own):
                ids = self._column(number, "object_id")
                found += [_plain(ids[position]) for position in (own - start).tolist()]
        return found

    def class_counts(self) -> dict[str, int]:
        """Return class name -> objects, in the order in which classes come first."""
        counts: Counter[bytes] = Counter()
        for number in range(len(self._segments)):
            counts.update(self._column(number, "class_name"))
        return {_plain(name): count for name, count in counts.items()}

    def find(self, object_id: str) -> int:
        """Return the row of an object; raises KeyError for an unknown one."""
        hashes, rows = self._id_index()
        wanted = _id_hash(json.dumps(object_id, ensure_ascii=False)[1:-1].encode())
        first = int(np.searchsorted(hashes, wanted))
        while first < len(hashes) and hashes[first] == wanted:
            row = int(rows[first])
            if self[row].object_id == object_id:
                return row
            first += 1
        raise KeyError(object_id)

    def damage(self) -> list[IntegrityError]:
        """Read every segment; returns what is wrong with those that are missing or damaged."""
        found = []
        for segment in self._segments:
            try:
                _read_segment(self._store, segment)
            except IntegrityError as error:
                found.append(error)
        return found

    def _column(self, number: int, name: str) -> list[bytes]:
        """All values of one column of a segment, as JSON writes them; many times as fast as parsing rows."""
        data = self._text(number).data
        if b"\\" in data:
            return _COLUMNS[name].findall(data)
        return [part[: part.index(b'"')] for part in data.split(b'"%b":"' % name.encode())[1:]]

    def _text(self, number: int) -> _Text:
        with _loading:  # threads that come to a new segment together would each load it
            text = self._texts.pop(number, None)
            if text is None:
                data = _read_segment(self._store, self._segments[number])
                text = _Text(data, np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")))
            self._texts[number] = text
            while len(self._texts) > CACHED_SEGMENTS:
                self._texts.popitem(last=False)
            return text

    def _id_index(self) -> tuple[NDArray[np.int64], NDArray[np.integer[Any]]]:
        """Hashes of all ids in ascending order, and the row of each."""
        if self._index is None:
            hashes = np.concatenate([self._id_hashes(number) for number in range(len(self._segments))])
            small = np.uint32 if self.end < 2**32 else np.int64
            rows = np.concatenate([np.arange(block.start, block.end, dtype=small) for block in self._blocks])
            order = np.argsort(hashes, kind="stable")
            self._index = hashes[order], rows[order]
        return self._index

    def _id_hashes(self, number: int) -> NDArray[np.int64]:
        ids = self._column(number, "object_id")
        return np.fromiter(map(_id_hash, ids), np.int64, self._segments[number].n_rows)


def _plain(value: bytes) -> str:
    """Turn a JSON string without its quotes into text."""
    return value.decode() if b"\\" not in value else str(json.loads(b'"' + value + b'"'))


_FIELDS = tuple(field.name for field in fields(PlanRow))
_id_hash = hash


def write_segments(store: Store, rows: Sequence[PlanRow], number: int = 0) -> list[Segment]:
    """Store rows in segments, the first of which has this number; rows that are there are not written."""
    starts = range(0, len(rows), SEGMENT_ROWS)
    return [
        _write_segment(store, number + position, rows[start : start + SEGMENT_ROWS])
        for position, start in enumerate(starts)
    ]


def hash_rows(rows: Iterable[PlanRow]) -> str:
    """Hash what the dataset's content depends on in all rows: everything but locations."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical_json({**_values(row), "location": ""}) + b"\n")
    return digest.hexdigest()


def _values(row: PlanRow) -> dict[str, Any]:
    """What asdict returns, several times as fast: there may be ten million."""
    return {name: getattr(row, name) for name in _FIELDS}


def _write_segment(store: Store, number: int, rows: Sequence[PlanRow]) -> Segment:
    from numcodecs.zstd import Zstd

    text = b"".join(canonical_json(_values(row)) + b"\n" for row in rows)
    digest = hashlib.sha256(text).hexdigest()
    segment = Segment(layout.plan_segment(number, digest), len(rows), digest)
    data = bytes(Zstd(level=5).encode(text))
    if not store.create(segment.key, data):  # of a plan that was not finished, perhaps by another zstd
        data = store.read(segment.key)
    segment = replace(segment, stored_sha256=hashlib.sha256(data).hexdigest())
    _segment_text(segment, data)
    return segment


def _read_segment(store: Store, segment: Segment) -> bytes:
    try:
        data = store.read(segment.key)
    except FileNotFoundError as error:
        raise IntegrityError(f"{segment.key}: plan segment is missing", key=segment.key) from error
    return _segment_text(segment, data)


def _segment_text(segment: Segment, data: bytes) -> bytes:
    """Decompress a segment and check it."""
    from numcodecs.zstd import Zstd

    if segment.stored_sha256 not in ("", hashlib.sha256(data).hexdigest()):
        raise IntegrityError(f"{segment.key}: checksum mismatch", key=segment.key)
    try:
        text = bytes(Zstd().decode(data))
    except (RuntimeError, ValueError) as error:
        raise IntegrityError(f"{segment.key}: cannot be decompressed: {error}", key=segment.key) from error
    if hashlib.sha256(text).hexdigest() != segment.sha256:
        raise IntegrityError(f"{segment.key}: checksum mismatch", key=segment.key)
    return text
