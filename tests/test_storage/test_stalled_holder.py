"""A holder of the lease that stalls in the middle of a step, and goes on when somebody else has the lease.

So does a request that the network holds back: its sender may be dead by the time that it arrives.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage import lease as lease_module
from storage import replacement, sharded
from storage.errors import LeaseLostError, TransientError
from storage.group import GroupSpec
from storage.journal import Journal, read_journal
from storage.layout import LEASE
from storage.lease import Lease
from storage.planes import PlanesStore
from storage.records import Status
from storage.replacement import finish_round, open_round, read_shard
from storage.shards import Sidecar
from storage.store import Store
from storage.verify import verify
from storage.views import ViewsStore

from .builders import FAILED_ROW, full_dataset, object_views, same_views
from .test_replacement import NEW, mend, mend_in_a_round

GROUP = "views.zarr"


def fail(error: Exception) -> None:
    raise error


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(lease_module, "SETTLE_S", 0.25)  # a busy machine takes 0.1 s to write
    return full_dataset(tmp_path / "root" if request.param == "local" else f"memory://{uuid.uuid4().hex}/r")


def once(action: Callable[[], None]) -> Callable[[], None]:
    """The action, the first time alone."""
    left = [action]

    def act() -> None:
        if left:
            left.pop()()

    return act


def test_one_that_publishes_late_writes_the_last_content(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = ViewsStore.open(store)
    late = once(lambda: mend_in_a_round(store, "views"))
    real = sharded.published_files

    def stalled(spec: GroupSpec, sidecar: Sidecar) -> dict[str, bytes]:
        late()
        return real(spec, sidecar)

    monkeypatch.setattr(sharded, "published_files", stalled)
    views.publish(1, overwrite=True)
    assert verify(store, full=True) == []
    assert views.status()[FAILED_ROW] == Status.OK


def test_one_that_stalls_at_the_journal_undoes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    views = ViewsStore.open(store)
    real = replacement.write_journal
    with Lease(store, "stalled") as lease:
        open_round(views, lease.token, [1])
    following: list[Any] = []

    def others() -> None:
        with Lease(store, "next") as lease:
            following.append(open_round(ViewsStore.open(store), lease.token, [0, 1]))

    late = once(others)

    def stalled(*arguments: Any) -> bool:
        late()
        return real(*arguments)

    monkeypatch.setattr(replacement, "write_journal", stalled)
    with Lease(store, "stalled") as lease:
        token = lease.token
        monkeypatch.setattr(Lease, "_take", lambda self: store.replace(LEASE, self._document()))
        with pytest.raises(LeaseLostError):
            finish_round(views, token)
    assert read_journal(store, GROUP) == Journal(following[0].generation, frozenset({0, 1}))


@pytest.mark.parametrize("opens_again", [False, True])
def test_a_replacement_that_was_held_back_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch, opens_again: bool
) -> None:
    views = ViewsStore.open(store)
    held: list[tuple[str, bytes, str]] = []
    real = Store.swap

    def hold(self: Store, key: str, data: bytes, version: str) -> bool:
        if "images" in key and not held:
            held.append((key, data, version))
            raise TransientError("no answer")
        return real(self, key, data, version)

    monkeypatch.setattr(Store, "swap", hold)
    with Lease(store, "doomed") as lease, pytest.raises(TransientError, match="could not be replaced"):
        mend(views, "second", open_round(views, lease.token, [1]))
    before = read_shard(views, 1).tail.sidecar
    with Lease(store, "next") as lease:
        if opens_again:
            open_round(views, lease.token, [0])
        finish_round(views, lease.token)
    assert store.swap(*held[0]) is False
    assert verify(store, full=True) == []
    after = read_shard(views, 1).tail.sidecar
    assert (after.objects, after.generation) == (before.objects, 1)
    assert after.info == {**before.info, "fenced": before.attempt}
    assert views.status()[FAILED_ROW] == Status.FAILED
    mend_in_a_round(store, "views", "third")
    assert same_views(ViewsStore.open(store).read(FAILED_ROW), object_views(NEW + FAILED_ROW))
    assert same_views(ViewsStore.open(store).read(2), object_views(2))


def test_a_fence_keeps_the_statistics_of_planes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    planes = PlanesStore.open(store, "main")
    before = planes.statistics(1)
    real = Store.swap
    lost = once(lambda: fail(TransientError("no answer")))
    monkeypatch.setattr(
        Store,
        "swap",
        lambda self, key, *how: lost() if key == planes.spec.shard_key(1) else real(self, key, *how),
    )
    with Lease(store, "doomed") as lease, pytest.raises(TransientError):
        mend(planes, "second", open_round(planes, lease.token, [1]))
    monkeypatch.undo()
    with Lease(store, "next") as lease:
        finish_round(planes, lease.token)
    assert planes.sidecar(1).info["fenced"] == "p1"
    assert before is not None
    assert planes.statistics(1) == before


def test_only_shards_that_may_be_on_their_way_are_written_anew(store: Store) -> None:
    views = ViewsStore.open(store)
    with Lease(store, "first") as lease:
        open_round(views, lease.token, [0, 1])
        finish_round(views, lease.token)
    assert [views.sidecar(shard).generation for shard in (0, 1)] == [0, 0]


def test_a_lease_whose_first_answer_was_lost_is_ours(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Store.create

    def second_answer(self: Store, key: str, data: bytes) -> bool:
        return real(self, key, data) and key != LEASE  # the client tried again by itself: "exists"

    monkeypatch.setattr(Store, "create", second_answer)
    with Lease(store, "mine") as lease:
        lease.check()
