"""The lease: one holder at a time, found dead or late when it is, never taken from one that renews."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage import lease as lease_module
from storage.conditions import Conditions
from storage.errors import IntegrityError, LeaseHeldError, LeaseLostError, TransientError
from storage.layout import LEASE
from storage.lease import Lease, LeaseRecord, check_lease, read_lease
from storage.store import Store


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(lease_module, "SETTLE_S", 0.2)
    return Store(tmp_path / "root" if request.param == "local" else f"memory://{uuid.uuid4().hex}/root")


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holders count as processes of another machine, whose death cannot be seen."""
    monkeypatch.setattr(lease_module, "process_is_dead", lambda tag: None)


def test_the_second_is_told_who_has_it(store: Store) -> None:
    assert read_lease(store) is None
    with Lease(store, "fpipe retry /data"):
        with pytest.raises(LeaseHeldError) as caught, Lease(store, "another"):
            pass
        said = str(caught.value)
        assert f"`fpipe retry /data` (process {os.getpid()} on " in said
        assert "since 20" in said
        assert "at most 60 s" in said
        assert caught.value.exit_code == 3
    with Lease(store, "another") as second:
        check_lease(store, second.token)


def test_it_is_released_whatever_ends_the_block(store: Store) -> None:
    class Stopped(BaseException):
        pass

    with pytest.raises(Stopped), Lease(store, "first"):
        raise Stopped
    found = read_lease(store)
    assert found is not None and found.released and found.left_s == 0.0


def test_one_that_renews_is_kept_and_one_that_does_not_is_taken_over(store: Store, foreign: None) -> None:
    with Lease(store, "first", duration_s=1.2) as first:
        time.sleep(1.6)
        first.check()
        with pytest.raises(LeaseHeldError), Lease(store, "second"):
            pass
        first._ended.set()  # as if the holder were stopped
        time.sleep(1.4)
        with pytest.raises(LeaseLostError, match="was lost; nothing more is written"):
            first.check()
        with Lease(store, "second") as second:
            second.check()
            with pytest.raises(LeaseLostError, match=r"lost to `second`"):
                first.check()
    found = read_lease(store)
    assert found is not None and found.token == second.token, "a late release changes nothing"


def test_of_many_at_once_one_gets_it(store: Store) -> None:
    barrier, held, refused = threading.Barrier(8), [], []

    def take(number: int) -> None:
        barrier.wait()
        try:
            with Lease(store, f"number {number}") as mine:
                held.append(mine.token)
                time.sleep(0.5)
                mine.check()
        except LeaseHeldError:
            refused.append(number)

    with Lease(store, "earlier"):
        pass
    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 7)


def _hold(root: Path, taken: Any) -> None:
    with Lease(Store(root), "doomed"):
        taken.set()
        time.sleep(60)


def test_a_killed_holder_of_this_machine_is_seen_to_be_dead(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    taken = context.Event()
    child = context.Process(target=_hold, args=(tmp_path, taken))
    child.start()
    assert taken.wait(30)
    with pytest.raises(LeaseHeldError, match="doomed"), Lease(Store(tmp_path), "second"):
        pass
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    with Lease(Store(tmp_path), "second") as second:
        second.check()


def test_clocks_that_run_ahead_do_not_make_it_last_for_ever(foreign: None) -> None:
    record = LeaseRecord("t", "p", "h", 1, "x", "2026", renewed=time.time() + 1e6, duration_s=60.0)
    assert record.left_s == 60.0
    assert replace(record, renewed=time.time() - 70).left_s == 0.0


def test_where_the_store_decides_nothing_the_last_of_two_that_looked_at_once_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both look before either writes, again and again: nobody but the last believes to hold it."""
    monkeypatch.setattr(lease_module, "SETTLE_S", 0.4)
    with Lease(BlindStore(tmp_path), "earlier"):
        pass
    for _ in range(3):
        barrier, held, refused = threading.Barrier(2), [], []

        def take(
            number: int,
            barrier: threading.Barrier = barrier,
            held: list[int] = held,
            refused: list[int] = refused,
        ) -> None:
            store = BlindStore(tmp_path, barrier)
            try:
                with Lease(store, f"number {number}") as lease:
                    held.append(number)
                    time.sleep(0.3)
                    lease.check()
            except LeaseHeldError:
                refused.append(number)

        threads = [threading.Thread(target=take, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(held), len(refused)) == (1, 1)


def test_a_lease_that_took_too_long_to_take_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "SETTLE_S", 0.1)
    with Lease(BlindStore(tmp_path), "earlier"):
        pass
    with pytest.raises(TransientError, match="too long"), Lease(BlindStore(tmp_path, delay_s=0.2), "slow"):
        pass
    found = read_lease(Store(tmp_path))
    assert found is not None and found.left_s == 0.0


class BlindStore(Store):
    """A store that ignores comparisons; the first swap waits until another one has looked, too."""

    def __init__(self, url: Path, barrier: threading.Barrier | None = None, delay_s: float = 0.0) -> None:
        super().__init__(url)
        self._barrier = barrier
        self._delay_s = delay_s

    def settle(self) -> Conditions:
        return Conditions(create=True, swap=False)

    def swap(self, key: str, data: bytes, version: str) -> bool:
        if self._barrier is not None:
            self._barrier.wait(5)
            self._barrier = None
        time.sleep(self._delay_s)
        self.replace(key, data)
        return True


def test_a_damaged_lease_is_nobodys(store: Store) -> None:
    """Its holder is stopped at its next look, and whoever comes next writes it anew."""
    with Lease(store, "first") as first:
        store.replace(LEASE, store.read(LEASE)[:-20])
        with pytest.raises(IntegrityError, match=LEASE):
            first.check()
        with Lease(store, "second") as second:
            second.check()
            with pytest.raises(LeaseLostError):
                first.check()
    found = read_lease(store)
    assert found is not None and found.purpose == "second" and found.released
