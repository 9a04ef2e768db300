"""In which order the ranks and workers of a training visit the objects of a dataset; numpy alone.

**Streams.** The shards are shuffled, and their objects laid out one after the other, each shard's from a
random one on and round: the sequence of an epoch.
Ranks get consecutive pieces of it, as equal as possible, and so do the workers of a rank: a shard is read by
one worker, or by two where a piece ends. A worker reads its piece in order and hands objects out in another:
the object at place i comes when i + u is smallest, u uniform in [0, buffer). So an object waits for fewer
than `buffer` others, which is what must be held, and no order is drawn while reading: any point of it can be
computed, and gone on from.

Everything follows from seed, epoch, rank and worker. A position is how many objects a worker has handed out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError

Rows = NDArray[np.int64]
State = dict[str, Any]


@dataclass(frozen=True)
class StreamOrder:
    """The order of one rank's stream.

    Attributes:
        rows: Rows of all objects that have data, ascending.
        objects_per_shard: Rows of a shard.
        buffer: How far an object may move, in objects; 1 keeps the order of the sequence.
        seed: Same on all ranks.
        rank: Of this process.
        world_size: Number of ranks.
        shuffle: False visits shards and objects in the order of rows.
        even: Leave out up to `world_size` - 1 objects of an epoch, other ones in every epoch, so that all
            ranks have the same number; otherwise they differ by one at most.
    """

    rows: Rows
    objects_per_shard: int
    buffer: int
    seed: int
    rank: int
    world_size: int
    shuffle: bool
    even: bool

    def sequence(self, epoch: int) -> Rows:
        """Return the rows of this rank in an epoch, in the order in which they are read."""
        rows = self.rows
        if self.shuffle:
            shards, within = np.divmod(rows, self.objects_per_shard)
            rng, n_shards = np.random.default_rng([self.seed, epoch]), int(shards.max(initial=0)) + 1
            place, begin = rng.permutation(n_shards), rng.integers(self.objects_per_shard, size=n_shards)
            rows = rows[np.lexsort(((within - begin[shards]) % self.objects_per_shard, place[shards]))]
        if self.even:
            rows = rows[: len(rows) // self.world_size * self.world_size]
        return _piece(rows, self.rank, self.world_size)

    def visits(self, sequence: Rows, epoch: int, worker: int, n_workers: int) -> tuple[Rows, Rows]:
        """Return a worker's piece of a sequence, and the places in it in the order of handing out."""
        piece = _piece(sequence, worker, n_workers)
        places = np.arange(len(piece))
        if self.shuffle and self.buffer > 1:
            rng = np.random.default_rng([self.seed, epoch, self.rank, worker, n_workers, len(sequence)])
            places = np.argsort(places + rng.uniform(0, self.buffer, len(piece)), kind="stable")
        return piece, places

    def left(self, sequence: Rows, epoch: int, positions: Sequence[int]) -> Rows:
        """Return what is left of a sequence when each of its workers has handed out so many objects."""
        parts = []
        for worker, position in enumerate(positions):
            piece, places = self.visits(sequence, epoch, worker, len(positions))
            parts.append(piece[np.sort(places[position:])])
        return np.concatenate(parts)

    def identity(self) -> State:
        """Return what must be the same for a position to mean the same."""
        own = {
            name: getattr(self, name) for name in ("seed", "rank", "world_size", "buffer", "shuffle", "even")
        }
        return {**own, "objects_per_shard": self.objects_per_shard, "objects": self._objects}

    @cached_property
    def _objects(self) -> str:
        digest = hashlib.sha256(self.rows.astype("<i8").tobytes()).hexdigest()
        return f"{len(self.rows)}-{digest[:16]}"


@dataclass(frozen=True)
class StreamPosition:
    """Where one rank's stream is in an epoch.

    Attributes:
        epoch: The epoch.
        history: Positions of workers that were ended when the stream went on with another number of them.
        positions: Objects that each worker has handed out since; None of a worker that is not known here.
        first: Worker whose turn is next: a loader asks its workers in turn.
    """

    epoch: int
    positions: tuple[int | None, ...]
    history: tuple[tuple[int, ...], ...] = ()
    first: int = 0

    @classmethod
    def start(cls, epoch: int, n_workers: int) -> StreamPosition:
        """Return the beginning of an epoch."""
        return cls(epoch, (0,) * n_workers)

    def with_workers(self, n_workers: int) -> StreamPosition:
        """Return the same place for another number of workers.

        Raises:
            UsageError: the position of some worker is not known.
        """
        if n_workers == len(self.positions):
            return self
        return StreamPosition(self.epoch, (0,) * n_workers, (*self.history, self._known()))

    def after(
        self, order: StreamOrder, batches: int, batch_size: int, drop_last: bool = False
    ) -> StreamPosition:
        """Return the place after so many more batches of a loader that asks its workers in turn.

        Raises:
            UsageError: the epoch has fewer batches.
        """
        positions, n_workers = self._known(), len(self.positions)
        sizes, available = self._batches(order, batch_size, drop_last)
        if not 0 <= batches <= available.sum():
            raise UsageError(
                f"epoch {self.epoch} has {available.sum()} more batches of {batch_size} on rank "
                f"{order.rank}, not {batches}"
            )
        turns = (np.arange(n_workers) + self.first) % n_workers
        rounds = _full_rounds(available, batches)
        taken = np.minimum(available, rounds)
        first = self.first
        for worker in turns[available[turns] > rounds][: batches - int(taken.sum())]:
            taken[worker] += 1
            first = (int(worker) + 1) % n_workers
        moved = np.minimum(np.add(positions, taken * batch_size), sizes)
        return StreamPosition(self.epoch, tuple(moved.tolist()), self.history, first)

    def moved(self, worker: int, position: int) -> StreamPosition:
        """Return the place of one worker that has handed out so many objects; others are not known to it."""
        positions: list[int | None] = [None] * len(self.positions)
        positions[worker] = position
        return StreamPosition(self.epoch, tuple(positions), self.history, self.first)

    def n_batches(self, order: StreamOrder, batch_size: int, drop_last: bool = False) -> int:
        """Return how many batches the workers have left together; each of them may end with a short one."""
        return int(self._batches(order, batch_size, drop_last)[1].sum())

    def sequence(self, order: StreamOrder) -> Rows:
        """Return what the present workers share: the rank's sequence, less what earlier ones handed out."""
        sequence = order.sequence(self.epoch)
        for positions in self.history:
            sequence = order.left(sequence, self.epoch, positions)
        return sequence

    def is_complete(self, order: StreamOrder) -> bool:
        """Say whether the workers whose positions are known have handed out all of theirs."""
        sequence, n_workers = self.sequence(order), len(self.positions)
        sizes = [len(_piece(sequence, worker, n_workers)) for worker in range(n_workers)]
        return all(at in (None, size) for at, size in zip(self.positions, sizes, strict=True))

    def n_left(self, order: StreamOrder) -> int:
        """Return the number of objects that the rank has not handed out yet."""
        return len(self.sequence(order)) - sum(self._known())

    def as_state(self, order: StreamOrder) -> State:
        """Return plain values for a checkpoint."""
        history = [list(positions) for positions in self.history]
        own = {
            "epoch": self.epoch,
            "positions": list(self.positions),
            "history": history,
            "first": self.first,
        }
        return {"version": 1, **order.identity(), **own}

    @classmethod
    def of_state(cls, state: State, order: StreamOrder) -> StreamPosition:
        """Read what `as_state` returned.

        Raises:
            UsageError: it is of another dataset, snapshot, seed, rank or number of ranks.
        """
        for name, value in {"version": 1, **order.identity()}.items():
            if state.get(name) != value:
                raise UsageError(
                    f"the state is of another stream: its {name} is {state.get(name)!r}, here it is "
                    f"{value!r}; go on with the same dataset and arguments, or begin the epoch again"
                )
        history = tuple(tuple(positions) for positions in state["history"])
        return cls(state["epoch"], tuple(state["positions"]), history, state["first"])

    def _batches(
        self, order: StreamOrder, batch_size: int, drop_last: bool
    ) -> tuple[list[int], NDArray[np.int64]]:
        """Return the objects that each worker has in all, and the batches that it has left."""
        sequence, n_workers = self.sequence(order), len(self.positions)
        sizes = [len(_piece(sequence, worker, n_workers)) for worker in range(n_workers)]
        left = np.subtract(sizes, self._known())
        return sizes, left // batch_size if drop_last else -(-left // batch_size)

    def _known(self) -> tuple[int, ...]:
        known = tuple(position for position in self.positions if position is not None)
        if len(known) < len(self.positions):
            raise UsageError(
                f"the state is that of one of {len(self.positions)} workers: go on with as many workers"
            )
        return known


class EpochSampler:
    """Positions of a map-style dataset in a new order every epoch, without those of other ranks.

    Over all ranks every object comes once; ranks differ by one object at most. To be given to a `DataLoader`
    as `sampler`; call `set_epoch` before each epoch.

    Args:
        n_objects: Length of the dataset.
        seed: Same on all ranks.
        rank: Of this process.
        world_size: Number of ranks.
        shuffle: False keeps the order.
        even: Leave out up to `world_size` - 1 objects of an epoch, so that all ranks have the same number.
    """

    def __init__(
        self,
        n_objects: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        even: bool = False,
    ) -> None:
        check_rank(rank, world_size)
        # One object per shard: shuffling shards then shuffles objects.
        self._order = StreamOrder(np.arange(n_objects), 1, 1, seed, rank, world_size, shuffle, even)
        self._at = StreamPosition.start(0, 1)

    def __len__(self) -> int:
        return self._at.n_left(self._order)

    def __iter__(self) -> Iterator[int]:
        (position,) = self._at.positions
        return iter(self._at.sequence(self._order)[position:].tolist())

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch; does nothing in the epoch that a loaded state goes on with."""
        if epoch != self._at.epoch:
            self._at = StreamPosition.start(epoch, 1)

    def state_after(self, batches: int, batch_size: int) -> State:
        """Return the state after so many batches that were *received* from the loader since it began.

        The loader itself is further: it asks for indices ahead.
        """
        return self._at.after(self._order, batches, batch_size).as_state(self._order)

    def load_state_dict(self, state: State) -> None:
        """Go on after a state, in its epoch; raises UsageError for the state of another sampler."""
        self._at = StreamPosition.of_state(state, self._order)


def check_rank(rank: int, world_size: int) -> None:
    """Raise UsageError for a rank that there is not."""
    if not 0 <= rank < world_size:
        raise UsageError(f"rank {rank} of {world_size}: ranks are numbered from 0")


def _piece(rows: Rows, number: int, n_pieces: int) -> Rows:
    """Return one of `n_pieces` consecutive pieces whose sizes differ by one at most."""
    return rows[len(rows) * number // n_pieces : len(rows) * (number + 1) // n_pieces]


def _full_rounds(available: NDArray[np.int64], batches: int) -> int:
    """Return how many rounds of one batch per worker that still has some fit into a number of batches."""
    low, high = 0, int(available.max(initial=0))
    while low < high:
        middle = (low + high + 1) // 2
        if int(np.minimum(available, middle).sum()) <= batches:
            low = middle
        else:
            high = middle - 1
    return low
