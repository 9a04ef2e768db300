"""Appending to a dataset on a real S3 server on this machine, where the moto package is there."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from storage.append import append_objects
from storage.errors import StoreMismatchError
from storage.plan import read_plan
from storage.reader import open_planes
from storage.store import Store
from storage.verify import verify

from .builders import N_OBJECTS, object_fit
from .test_append import BOATS, SOURCE, append, finish
from .test_replacement_s3 import store as s3_store

store = s3_store  # a fixture


def test_new_objects_beside_a_reader_of_the_old_ones(store: Store) -> None:
    dataset = open_planes(store.url)
    assert append(store).rows == range(6, 9)
    finish(store)
    assert verify(store, full=True) == []
    assert len(dataset) == 4 and np.array_equal(dataset[0].micro(), object_fit(0).micro)
    dataset.refresh()
    assert len(dataset) == 7 and np.array_equal(dataset["boat-2"].micro(), object_fit(8).micro)
    assert append(store).n_known == 3


def test_of_two_at_once_one_wins(store: Store) -> None:
    plan = read_plan(store)
    barrier, told = threading.Barrier(2), []

    def add(number: int) -> None:
        barrier.wait()
        try:
            append_objects(Store(store.url), BOATS[number : number + 1], SOURCE, plan)
        except StoreMismatchError as error:
            told.append(str(error))

    writers = [threading.Thread(target=add, args=(number,)) for number in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert len(told) == 1 and "somebody else appended objects at the same time" in told[0]
    assert read_plan(store).n_objects == N_OBJECTS + 1 and verify(store, full=True) == []


@pytest.mark.parametrize("n_killed", (2, 3, 6))
def test_an_append_that_lost_its_connection_is_completed(
    store: Store, n_killed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write from some one on fails."""
    writes = 0

    class GoneError(Exception):
        pass

    with monkeypatch.context() as patched:
        for name in ("create", "replace", "swap"):
            real = getattr(Store, name)

            def failing(self: Store, key: str, *more: object, real: object = real) -> object:
                nonlocal writes
                writes += 1
                if writes >= n_killed:
                    raise GoneError
                return real(self, key, *more)  # type: ignore[operator]

            patched.setattr(Store, name, failing)
        with pytest.raises(GoneError):
            append(store)
    assert len(open_planes(store.url)) == 4
    append(store)
    assert read_plan(store).n_objects == N_OBJECTS + 3 and verify(store, full=True) == []
