from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from storage.epoch_order import EpochSampler, StreamOrder, StreamPosition
from storage.errors import UsageError

ROWS = np.setdiff1d(np.arange(103), [0, 7, 8, 50, 99])  # shards of 10 rows with holes


def make_order(**changes: Any) -> StreamOrder:
    values: dict[str, Any] = {
        "rows": ROWS, "objects_per_shard": 10, "buffer": 25, "seed": 3,
        "rank": 0, "world_size": 1, "shuffle": True, "even": False,
    }  # fmt: skip
    return StreamOrder(**{**values, **changes})


def flat(parts: list[list[int]]) -> list[int]:
    return [row for part in parts for row in part]


def visited(order: StreamOrder, at: StreamPosition) -> list[list[int]]:
    """Rows that each worker hands out from a position on."""
    sequence, n = at.sequence(order), len(at.positions)
    pieces = (order.visits(sequence, at.epoch, worker, n) for worker in range(n))
    return [piece[places[at.positions[w] :]].tolist() for w, (piece, places) in enumerate(pieces)]


def loader_batches(
    order: StreamOrder, at: StreamPosition, size: int, drop_last: bool = False
) -> list[list[int]]:
    """What a loader yields: batches of its workers in turn, from worker `first` on."""
    workers = visited(order, at)
    workers = workers[at.first :] + workers[: at.first]
    found: list[list[int]] = []
    while any(workers):
        for rows in workers:
            batch = [rows.pop(0) for _ in range(min(size, len(rows)))]
            if batch and (len(batch) == size or not drop_last):
                found.append(batch)
    return found


@pytest.mark.parametrize(("world_size", "n_workers"), [(1, 1), (1, 3), (2, 2), (3, 4), (7, 20)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_object_comes_once_per_epoch(world_size: int, n_workers: int, shuffle: bool) -> None:
    epochs = []
    for epoch in range(2):
        found: list[int] = []
        sizes = []
        for rank in range(world_size):
            order = make_order(rank=rank, world_size=world_size, shuffle=shuffle)
            parts = visited(order, StreamPosition.start(epoch, n_workers))
            sizes.append(sum(map(len, parts)))
            found += flat(parts)
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert sorted(found) == ROWS.tolist() and max(sizes) - min(sizes) <= 1
        epochs.append(found)
    assert (epochs[0] == epochs[1]) is not shuffle
    assert shuffle or epochs[0] == ROWS.tolist()


def test_even_ranks_have_the_same_number_and_leave_out_other_objects_in_every_epoch() -> None:
    orders = [make_order(rank=rank, world_size=3, even=True) for rank in range(3)]
    left_out = []
    for epoch in range(4):
        parts = [order.sequence(epoch) for order in orders]
        assert {len(part) for part in parts} == {len(ROWS) // 3}
        left_out.append(tuple(sorted(set(ROWS.tolist()) - set(np.concatenate(parts).tolist()))))
    assert len(set(left_out)) > 1 and {len(names) for names in left_out} == {len(ROWS) % 3}


def test_a_worker_reads_few_runs_and_holds_fewer_objects_than_the_buffer() -> None:
    order = make_order(world_size=2)
    piece, places = order.visits(order.sequence(0), 0, 1, 2)
    shards = piece // 10
    assert (np.diff(piece) != 1).sum() <= 3 * len(set(shards.tolist())), "a shard has two runs, and holes"
    read = np.maximum.accumulate(places)
    held = read - np.arange(len(places))  # read, and not handed out yet
    assert held.max() < order.buffer and (places != np.sort(places)).any()


def test_shuffling_moves_objects_anywhere() -> None:
    """Over many epochs every object comes first, second, … about equally often."""
    order = make_order(rows=np.arange(12), objects_per_shard=3, buffer=12)
    first = Counter(visited(order, StreamPosition.start(epoch, 1))[0][0] for epoch in range(600))
    assert set(first) == set(range(12)) and max(first.values()) < 3 * min(first.values())


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("size", "n_workers"), [(4, 1), (4, 3), (16, 4), (7, 5)])
def test_a_position_after_some_batches_goes_on_where_they_end(
    size: int, n_workers: int, drop_last: bool
) -> None:
    order = make_order(rank=1, world_size=2)
    start = StreamPosition.start(5, n_workers)
    whole = loader_batches(order, start, size, drop_last)
    assert start.n_batches(order, size, drop_last) == len(whole)
    for taken in range(len(whole) + 1):
        state = json.loads(json.dumps(start.after(order, taken, size, drop_last).as_state(order)))
        at = StreamPosition.of_state(state, order)
        assert loader_batches(order, at, size, drop_last) == whole[taken:], taken
        if drop_last is False:
            assert at.n_left(order) == sum(map(len, whole[taken:]))
            assert at.is_complete(order) == (taken == len(whole))
        twice = at.after(order, min(2, len(whole) - taken), size, drop_last)
        assert loader_batches(order, twice, size, drop_last) == whole[taken + 2 :]
    with pytest.raises(UsageError, match="more batches"):
        start.after(order, len(whole) + 1, size, drop_last)


def test_another_number_of_workers_goes_on_with_what_is_left() -> None:
    order = make_order()
    at, seen = StreamPosition.start(1, 3), []
    for batches, n_workers in ((7, 5), (4, 1), (3, 2), (0, 4)):
        seen += flat(loader_batches(order, at, 4)[:batches])
        at = StreamPosition.of_state(at.after(order, batches, 4).as_state(order), order)
        at = at.with_workers(n_workers)
    seen += flat(visited(order, at))
    assert sorted(seen) == ROWS.tolist()


def test_the_state_of_one_worker_fits_its_own_number_of_workers_alone() -> None:
    at = StreamPosition.start(0, 2).moved(1, 5)
    assert at.positions == (None, 5) and at.with_workers(2) == at
    with pytest.raises(UsageError, match="as many workers"):
        at.with_workers(3)


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"rank": 1}, {"world_size": 3}, {"rows": ROWS[1:]}, {"buffer": 9}]
)
def test_a_state_of_another_stream_is_refused(change: dict[str, Any]) -> None:
    ours = make_order(world_size=2)
    state = StreamPosition.start(0, 2).as_state(ours)
    with pytest.raises(UsageError, match="another stream"):
        StreamPosition.of_state(state, make_order(**{"world_size": 2, **change}))


def test_without_objects_there_is_nothing_to_visit() -> None:
    order = make_order(rows=np.empty(0, np.int64))
    assert visited(order, StreamPosition.start(0, 2)) == [[], []]


@pytest.mark.parametrize("world_size", [1, 3])
def test_sampler_covers_everything_once_and_resumes(world_size: int) -> None:
    epochs = []
    for epoch in range(2):
        found: list[int] = []
        for rank in range(world_size):
            sampler = EpochSampler(50, seed=1, rank=rank, world_size=world_size)
            sampler.set_epoch(epoch)
            whole = list(sampler)
            assert len(sampler) == len(whole)
            other = EpochSampler(50, seed=1, rank=rank, world_size=world_size)
            other.load_state_dict(json.loads(json.dumps(sampler.state_after(2, 4))))
            other.set_epoch(epoch)
            assert list(other) == whole[8:] and len(other) == len(whole) - 8
            other.set_epoch(epoch + 1)
            assert len(other) == len(whole)
            found += whole
        assert sorted(found) == list(range(50))
        epochs.append(found)
    assert epochs[0] != epochs[1]
    assert list(EpochSampler(4, shuffle=False)) == [0, 1, 2, 3]
    with pytest.raises(UsageError, match="rank 3"):
        EpochSampler(4, rank=3, world_size=3)
