"""Owns the notes that running tasks leave in Ray's key-value store: where and when each attempt has begun.

A process that dies leaves nothing else from which the driver could tell a deadline from a crash, or where it
was. A task writes its note, and the driver removes notes by the block, because a call costs a task as much as
half of all that Ray does for it, and the head as much again (deploy/docs/overhead.md).
"""

from __future__ import annotations

import collections
import contextlib
import secrets
import time
from collections.abc import Iterator

from ray.experimental import internal_kv

NAMESPACE = "fpipe"
PER_BLOCK = 500
"""Notes that are removed together; some 100 bytes each."""


def write_note(key: str, node: str) -> bool:
    """Says, in a task, that it begins now on that node; returns False where the driver has forbidden it."""
    note = f"{time.time()} {node}"
    is_there: bool = internal_kv._internal_kv_put(key, note, overwrite=False, namespace=NAMESPACE)
    return not is_there


def forbid_note(key: str) -> None:
    """Takes the place of the note of an attempt that has not begun, which it finds when its turn comes."""
    internal_kv._internal_kv_put(key, "", overwrite=False, namespace=NAMESPACE)


def read_note(key: str) -> tuple[float | None, str]:
    """Returns when an attempt has begun (Unix time) and on which node; None and "" where it has not."""
    note = internal_kv._internal_kv_get(key, namespace=NAMESPACE) or b""
    began, _, node = note.decode().partition(" ")
    return float(began) if began else None, node


@contextlib.contextmanager
def notes() -> Iterator[Notes]:
    """Yields the notes of one run of an executor; none is left at its end.

    A run that is abandoned leaves those of its last blocks, some 50 KB, to Ray's head: it may have got the
    same signal as this process, and who asks a dead one waits for a minute.
    """
    made = Notes()
    yield made
    _remove(made.prefix)


class Notes:
    """Hands out keys, and removes the notes of each block when all its attempts have ended."""

    def __init__(self) -> None:
        self.prefix = f"{secrets.token_hex(8)}/"
        self._number = 0
        self._ended: collections.Counter[int] = collections.Counter()

    def new_key(self) -> str:
        """Returns the key of the next attempt's note."""
        number = self._number
        self._number += 1
        return f"{self.prefix}{number // PER_BLOCK}/{number}"

    def ended(self, key: str) -> None:
        """An attempt has ended; its note is not needed any more."""
        block = int(key.split("/")[1])
        self._ended[block] += 1
        if self._ended[block] == PER_BLOCK:
            del self._ended[block]
            _remove(f"{self.prefix}{block}/")


def _remove(prefix: str) -> None:
    internal_kv._internal_kv_del(prefix, del_by_prefix=True, namespace=NAMESPACE)
