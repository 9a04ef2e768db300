"""Lease and replacement on a real S3 server on this machine, where the moto package is there."""

from __future__ import annotations

import threading

import pytest

from storage.errors import LeaseHeldError
from storage.lease import Lease
from storage.replacement import finish_round, open_round
from storage.store import Store
from storage.verify import verify
from storage.views import ViewsStore

from .builders import FAILED_ROW, full_dataset, object_views, same_views
from .test_replacement import NEW, mend, mend_in_a_round


@pytest.fixture
def store(s3_root: str) -> Store:
    return full_dataset(s3_root)


def test_swap_is_refused_by_the_server(store: Store) -> None:
    store.create("k", b"1")
    version = store.version("k")
    assert store.swap("k", b"2", version) is True
    assert store.swap("k", b"3", version) is False
    store._files.version = lambda key: version  # type: ignore[method-assign] # the look before it sees nothing
    assert store.swap("k", b"4", version) is False, "If-Match decides"
    assert store.read("k") == b"2"


def test_a_shard_is_replaced(store: Store) -> None:
    mend_in_a_round(store, "views")
    mend_in_a_round(store, "planes")
    assert same_views(ViewsStore.open(store).read(FAILED_ROW), object_views(NEW + FAILED_ROW))
    assert verify(store, full=True) == []


def test_one_of_many_gets_the_lease(store: Store) -> None:
    with Lease(store, "earlier"):
        pass
    barrier, held, refused = threading.Barrier(4), [], []

    def take(number: int) -> None:
        mine = Store(store.url)
        barrier.wait()
        try:
            with Lease(mine, f"number {number}", duration_s=5.0) as lease:
                held.append(number)
                ended.wait(10)
                lease.check()
        except LeaseHeldError:
            refused.append(number)

    ended = threading.Event()
    threads = [threading.Thread(target=take, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    threading.Timer(3.0, ended.set).start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 3)


def test_an_interrupted_round_is_finished(store: Store) -> None:
    views = ViewsStore.open(store)
    with Lease(store, "killed") as lease:
        mend(views, "second", open_round(views, lease.token, [1]))
    with Lease(store, "again") as lease:
        assert finish_round(views, lease.token).open == frozenset()
    assert verify(store, full=True) == []
