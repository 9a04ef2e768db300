"""The exclusive right to replace shards of a dataset: one small document in the store.

It is created once, then only swapped against itself: taken, renewed by a thread, released. A holder that was
killed stops renewing, so its lease ends by itself; on its own machine, where it can be seen to be dead, at
once. Writers of shards that are not done need no lease. The clocks of the machines must agree to a few
seconds: a lease ends at a time of day.

A store that cannot compare versions does not decide between two that take it at the same time. There, whoever
has written it waits until the other must have written, too, and looks whose it is (Fischer's algorithm).
"""

from __future__ import annotations

import datetime
import logging
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import NoReturn, Self

from . import layout
from .documents import SCHEMA_VERSION, dump_document, parse_document
from .errors import FpipeError, IntegrityError, LeaseHeldError, LeaseLostError, TransientError
from .local_files import process_is_dead, process_tag
from .store import Store

LOGGER = logging.getLogger(__name__)

DURATION_S = 60.0
"""Seconds that a lease lasts without renewal; it is renewed four times in that time."""
SETTLE_S = 5.0
"""Seconds between look and write within which a lease is taken, where the store decides nothing."""


@dataclass(frozen=True)
class LeaseRecord:
    """What the store says about the holder.

    Attributes:
        token: Tells this lease from all others.
        purpose: What the holder does, for people: its command.
        host: Its machine.
        pid: Its process id there.
        process: Tag of its process, see `local_files.process_tag`.
        since: When it was taken, ISO, UTC.
        renewed: When it was taken or renewed last, seconds since 1970.
        duration_s: How long it lasts without renewal.
        released: Whether the holder has given it back.
    """

    token: str
    purpose: str
    host: str
    pid: int
    process: str
    since: str
    renewed: float
    duration_s: float
    released: bool = False

    @property
    def left_s(self) -> float:
        """Seconds until it ends by itself, 0 when it is free."""
        if self.released or process_is_dead(self.process):
            return 0.0
        return min(self.duration_s, max(0.0, self.renewed + self.duration_s - time.time()))


def read_lease(store: Store) -> LeaseRecord | None:
    """Return the last lease of a dataset, which may be free; None when there never was one."""
    try:
        data = store.read(layout.LEASE)
    except FileNotFoundError:
        return None
    values = parse_document(data, layout.LEASE)
    values.pop("schema_version")
    return LeaseRecord(**values)


def lease_holder(store: Store) -> str | None:
    """Say who holds the lease of a dataset at the moment; None when it is free."""
    found = read_lease(store)
    return _holder(found) if found is not None and found.left_s > 0.0 else None


def check_lease(store: Store, token: str) -> None:
    """Raise LeaseLostError unless the lease with this token still holds."""
    found = read_lease(store)
    if found is None or found.token != token or found.released or found.left_s <= 0.0:
        raise LeaseLostError(
            f"{store.url}: the right to replace shards was lost"
            + (f" to {_holder(found)}" if found and found.token != token else "")
            + "; nothing more is written. Run the same command again"
        )


class Lease:
    """Holds the lease of one dataset; a context manager.

    Args:
        store: The dataset.
        purpose: What it is taken for, shown to others who want it.
        duration_s: See `DURATION_S`.

    Attributes:
        token: For `check_lease`, also in other processes.
    """

    def __init__(self, store: Store, purpose: str, duration_s: float = DURATION_S) -> None:
        self._store = store
        self.token = secrets.token_hex(8)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._record = LeaseRecord(
            self.token, purpose, socket.gethostname(), os.getpid(), process_tag(), now, 0.0, duration_s
        )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="fpipe-lease")

    def __enter__(self) -> Self:
        self._take()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(FpipeError):  # it ends by itself
            self._swap_own(released=True)

    def check(self) -> None:
        """Raise LeaseLostError unless it still holds."""
        check_lease(self._store, self.token)

    def _take(self) -> None:
        """Take the lease.

        Raises:
            LeaseHeldError: somebody else has it; says who and for how long.
        """
        conditions, began = self._store.settle(), time.monotonic()
        decides = conditions.swap
        try:
            if self._store.create(layout.LEASE, self._document()):
                decides = conditions.create
            else:
                version = self._store.version(layout.LEASE)
                found = self._present()
                if found is not None and found.token == self.token:
                    decides = conditions.create  # the answer to the first try was lost
                elif found is not None and found.left_s > 0.0:
                    self._refuse(found)
                else:
                    self._store.swap(layout.LEASE, self._document(), version)
        except TransientError as error:
            LOGGER.warning("%s; looking who has the lease now", error)
        if not decides:
            self._let_others_write(time.monotonic() - began)
        found = read_lease(self._store)
        if found is None or found.token != self.token:
            self._refuse(found)

    def _present(self) -> LeaseRecord | None:
        """Return the present lease; None where it is damaged: `check_lease` has stopped its holder then."""
        try:
            return read_lease(self._store)
        except IntegrityError as error:
            LOGGER.warning("%s; it is taken over", error)
            return None

    def _let_others_write(self, took_s: float) -> None:
        if took_s > SETTLE_S:  # the one whose lease this write may have hit finds it gone at its next look
            self._swap_own(released=True)
            raise TransientError(
                f"{self._store.url}: taking the lease took {took_s:.0f} s, too long to be sure"
            )
        time.sleep(SETTLE_S)

    def _refuse(self, found: LeaseRecord | None) -> NoReturn:
        if found is None:
            raise TransientError(f"{layout.LEASE}: could not be written")
        raise LeaseHeldError(
            f"{self._store.url} is being changed by {_holder(found)}. Wait until it has ended; "
            f"if it was killed, its lease ends by itself in at most {found.left_s:.0f} s"
        )

    def _keep(self) -> None:
        while not self._ended.wait(self._record.duration_s / 4):
            try:
                self._swap_own()
            except LeaseLostError as error:
                LOGGER.error("%s", error)
                return
            except Exception as error:  # noqa: BLE001 a thread's boundary: the next renewal may work
                LOGGER.warning("the lease could not be renewed: %s", error)

    def _swap_own(self, released: bool = False) -> None:
        version = self._store.version(layout.LEASE)
        found = read_lease(self._store)
        if found is None or found.token != self.token:
            raise LeaseLostError(f"{layout.LEASE}: taken over by {_holder(found) if found else 'nobody'}")
        self._store.swap(layout.LEASE, self._document(released), version)

    def _document(self, released: bool = False) -> bytes:
        record = replace(self._record, renewed=time.time(), released=released)
        return dump_document({"schema_version": SCHEMA_VERSION, **asdict(record)})


def _holder(record: LeaseRecord) -> str:
    return f"`{record.purpose}` (process {record.pid} on {record.host}, since {record.since})"
