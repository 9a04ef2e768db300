"""Datasets of fits for PyTorch: map-style, streaming, and the fusing of planes on the device.

The only module of this package that imports torch. Samples are dictionaries: `row`, `class_index`, `id`, and
either `micro` and `coefficients` as they are stored (small: what workers should send), or fused `planes`.
Both datasets may be used in forked, forkserver and spawned workers; every process opens its own connections.

    data = open_planes("s3://bucket/cars")
    stream = PlanesStream(data, seed=1)
    loader = DataLoader(stream, batch_size=32, num_workers=2)
    fuse = Fuse(data, normalize="std").to("cuda")
    for epoch in range(10):
        stream.set_epoch(epoch)
        for batch in loader:
            planes = fuse(batch["micro"], batch["coefficients"])  # [32, 3, F, K, K] on the device
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .epoch_order import Rows, State, StreamOrder, StreamPosition, check_rank
from .errors import EnvironmentProblem, UsageError
from .fitted import FittedBatch
from .reader import PlanesDataset
from .statistics import Normalization

try:
    import torch
    from torch import Tensor
    from torch.utils.data import Dataset, IterableDataset, get_worker_info
except ImportError as error:
    raise EnvironmentProblem("storage.torch_data needs PyTorch: pip install torch") from error

Content = Literal["code", "planes"]
Sample = dict[str, Any]

CHUNK_OBJECTS = 64  # read at a time: enough for few large requests, little beside the buffer


class PlanesMapDataset(Dataset[Sample]):
    """Any object by its position in `dataset.ids`; a batch is read at once.

    Args:
        dataset: Opened by `open_planes`; its snapshot stays the one of now.
        content: "code" for micro planes and coefficients as they are stored, "planes" for fused planes.
        normalize: Of fused planes, see `FittedBatch.planes`.
    """

    def __init__(
        self,
        dataset: PlanesDataset,
        content: Content = "code",
        normalize: Normalization | None = None,
    ) -> None:
        self._samples = _Samples(dataset, content, normalize)

    def __len__(self) -> int:
        return len(self._samples.rows)

    def __getitem__(self, position: int) -> Sample:
        """Return one object; raises IndexError out of range."""
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[Sample]:
        """Return many objects, read together: what a `DataLoader` asks for."""
        return self._samples.read(self._samples.rows[np.asarray(positions, np.int64)])


class PlanesStream(IterableDataset[Sample]):
    """All objects once per epoch over all ranks and workers, shards and objects shuffled; see `epoch_order`.

    Reads whole runs of a shard, and the next one while the last is used: a fraction of the requests of random
    access. Has no length: its loader yields one short batch per worker; `n_batches` counts them.

    Resuming within an epoch: `state_after` with a plain `DataLoader`, or a loader that keeps the state of its
    workers by itself, such as torchdata's `StatefulDataLoader`, through `state_dict`. Then `load_state_dict`.

    Args:
        dataset: Opened by `open_planes`; its snapshot stays the one of now.
        content: As for `PlanesMapDataset`.
        normalize: Likewise.
        shuffle: False visits objects in the order of rows.
        buffer: Objects that a worker holds to shuffle them; at least those of a shard mixes well.
        seed: Same on all ranks.
        rank: Of this process; by default that of `torch.distributed`, 0 without.
        world_size: Number of ranks, likewise.
        even: Leave out up to `world_size` - 1 objects of an epoch, other ones in every epoch, so that all
            ranks have as many batches: what training in step needs.
    """

    def __init__(
        self,
        dataset: PlanesDataset,
        content: Content = "code",
        normalize: Normalization | None = None,
        shuffle: bool = True,
        buffer: int = 256,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        even: bool = False,
    ) -> None:
        if buffer < 1:
            raise UsageError(f"buffer={buffer}: at least the object itself is held")
        rank, world_size = _ranks(rank, world_size)
        self._samples = _Samples(dataset, content, normalize)
        per_shard = dataset.planes_store.header.objects_per_shard
        self._order = StreamOrder(
            self._samples.rows, per_shard, buffer, seed, rank, world_size, shuffle, even
        )
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call] # workers that persist see it change
        self._loaded: StreamPosition | None = None
        self._at: StreamPosition | None = None  # of the iteration in this process

    def __iter__(self) -> Iterator[Sample]:
        """Hand out the objects of this worker, or all of the rank without workers."""
        self._at = self._begin()
        return self._iterate()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; a loaded state is gone on with if it is of that epoch."""
        self._epoch.fill_(epoch)

    def n_batches(self, batch_size: int, num_workers: int, drop_last: bool = False) -> int:
        """Return how many batches a loader of this rank yields from here to the end of the epoch."""
        return self._start(num_workers).n_batches(self._order, batch_size, drop_last)

    def state_after(self, batches: int, batch_size: int, num_workers: int, drop_last: bool = False) -> State:
        """Return the state after so many batches that were *received* from a plain `DataLoader`.

        The count begins with the epoch, or with the loaded state. Workers are further than that: they read
        ahead. The loader must ask its workers in turn (`in_order=True`, the default).

        Raises:
            UsageError: the epoch has fewer batches.
        """
        at = self._start(num_workers).after(self._order, batches, batch_size, drop_last)
        return at.as_state(self._order)

    def state_dict(self) -> State:
        """Return where the iteration in this process is.

        Raises:
            UsageError: nothing has been iterated in this process, but perhaps in workers.
        """
        if self._at is None:
            raise UsageError(
                "this process has not iterated the stream: with the workers of a plain DataLoader use "
                "state_after(batches, batch_size, num_workers)"
            )
        return self._at.as_state(self._order)

    def load_state_dict(self, state: State) -> None:
        """Go on after a state, in its epoch; a state of the whole rank fits any number of workers.

        Raises:
            UsageError: the state is of another dataset, snapshot, seed, rank or number of ranks.
        """
        loaded = StreamPosition.of_state(state, self._order)
        # Where a loader loads the state of a finished epoch, the next one has been chosen already.
        if loaded.epoch != int(self._epoch) and not loaded.is_complete(self._order):
            if get_worker_info() is not None:
                raise UsageError(
                    f"the state is within epoch {loaded.epoch}, the stream in epoch {int(self._epoch)}: call "
                    f"set_epoch({loaded.epoch}) before iterating"
                )
            self._epoch.fill_(loaded.epoch)
        self._loaded = loaded
        self._at = None if self._at is None else self._begin()

    def _begin(self) -> StreamPosition:
        info = get_worker_info()
        return self._start(info.num_workers if info else 1)

    def _start(self, num_workers: int) -> StreamPosition:
        epoch, n_workers = int(self._epoch), max(num_workers, 1)
        if self._loaded is not None and self._loaded.epoch == epoch:
            return self._loaded.with_workers(n_workers)
        return StreamPosition.start(epoch, n_workers)

    def _iterate(self) -> Iterator[Sample]:
        at = self._at  # read at the first step: a state may be loaded between iter() and that
        assert at is not None
        info = get_worker_info()
        worker = ((info.id if info else 0) + at.first) % len(at.positions)
        piece, places = self._order.visits(at.sequence(self._order), at.epoch, worker, len(at.positions))
        done = at.positions[worker]
        if done is None:
            raise UsageError(f"the state is not that of worker {worker}: go on with the workers of the state")
        for position, sample in enumerate(self._samples.stream(piece, places[done:]), done + 1):
            self._at = at.moved(worker, position)
            yield sample
        self._loaded = None  # an epoch that is over is not gone on with


class Fuse(torch.nn.Module):
    """Composes fused planes on the device from what the workers send; holds base planes and statistics.

    Args:
        dataset: Gives base planes and, to normalise, its statistics.
        normalize: See `FittedBatch.planes`.
        dtype: Of the result. The sum over base planes is made in float32.
    """

    base_planes: Tensor
    offset: Tensor
    scale: Tensor

    def __init__(
        self,
        dataset: PlanesDataset,
        normalize: Normalization | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        header = dataset.planes_store.header
        size = header.resolution
        base = dataset.base_planes() if header.n_base else np.empty((0, 3, 0, size, size), np.float32)
        one = np.ones((3, 1, 1, 1), np.float32)
        offset, scale = (0 * one, one) if normalize is None else dataset.stats.scaling(normalize)
        for name, values in {"base_planes": base, "offset": offset, "scale": scale}.items():
            self.register_buffer(name, torch.from_numpy(np.array(values)), persistent=False)
        self._dtype = dtype
        self._normalize = normalize is not None

    def forward(self, micro: Tensor, coefficients: Tensor) -> Tensor:
        """Return fused planes.

        Args:
            micro: [B, 3, F_mic, K, K] of any floating type; F_mic may be 0.
            coefficients: [B, M].

        Returns:
            [B, 3, F_mic + F_mac, K, K], micro channels first, normalised where asked for.
        """
        device = self.base_planes.device
        micro, coefficients = micro.to(device, non_blocking=True), coefficients.to(device, non_blocking=True)
        planes = fuse(micro, coefficients, self.base_planes)
        if self._normalize:
            planes = (planes - self.offset) / self.scale
        return planes.to(self._dtype)

    def denormalize(self, planes: Tensor) -> Tensor:
        """Undo the normalisation of fused planes, for instance of samples; f32."""
        return planes.float() * self.scale + self.offset if self._normalize else planes.float()


def fuse(micro: Tensor, coefficients: Tensor, base_planes: Tensor) -> Tensor:
    """Compose fused planes on the device of the arguments: micro channels first, then the weighted sum.

    Args:
        micro: [B, 3, F_mic, K, K] of any floating type; F_mic may be 0.
        coefficients: f32 [B, M].
        base_planes: f32 [M, 3, F_mac, K, K]; M and F_mac may be 0.

    Returns:
        f32 [B, 3, F_mic + F_mac, K, K]; differentiable.
    """
    with torch.autocast(micro.device.type, enabled=False):  # coefficients are few, base planes magnify errors
        macro = torch.einsum("bm,mpfrc->bpfrc", coefficients.float(), base_planes)
        return torch.cat([micro.float(), macro], dim=2)


class _Samples:
    """Reads samples of one snapshot.

    Attributes:
        rows: Rows of all objects, ascending.
    """

    def __init__(self, dataset: PlanesDataset, content: Content, normalize: Normalization | None) -> None:
        if content not in ("code", "planes"):
            raise UsageError(f'content={content!r}: use "code" or "planes"')
        if normalize is not None and content == "code":
            raise UsageError(
                "normalize is for fused planes: give content='planes', or let Fuse(dataset, normalize=…) do "
                "it on the device"
            )
        self._dataset = dataset
        self._content = content
        self._normalize: Normalization | None = normalize
        self.rows: Rows = dataset[:].rows.copy()
        if normalize is not None:
            _ = dataset.stats  # here, once, and not in every worker

    def read(self, rows: Rows) -> list[Sample]:
        """Return the samples of some rows, in their order."""
        batch = FittedBatch(self._dataset, rows)
        columns: dict[str, Any] = {
            name: torch.from_numpy(values) for name, values in self._arrays(batch).items()
        }
        class_index = batch.class_index.tolist()
        samples = []
        for number, (row, object_id) in enumerate(zip(rows.tolist(), batch.ids, strict=True)):
            own = {name: values[number] for name, values in columns.items()}
            samples.append({"row": row, "class_index": class_index[number], "id": object_id, **own})
        return samples

    def stream(self, piece: Rows, places: NDArray[np.int64]) -> Iterator[Sample]:
        """Yield the samples at some places of a piece in that order, reading the piece in its own.

        Args:
            piece: Rows.
            places: Positions in `piece`; the next one is never far behind what has been read.
        """
        todo = np.sort(places)
        held: dict[int, Sample] = {}
        ahead: collections.deque[tuple[Rows, Future[list[Sample]]]] = collections.deque()
        chunks = iter(self._chunks(piece, todo))
        with ThreadPoolExecutor(1, "fpipe-read-ahead") as pool:
            for place in places.tolist():
                while place not in held:
                    while len(ahead) < 2 and (chunk := next(chunks, None)) is not None:
                        ahead.append((chunk, pool.submit(self.read, piece[chunk])))
                    own, future = ahead.popleft()
                    held.update(zip(own.tolist(), future.result(), strict=True))
                yield held.pop(place)

    def _chunks(self, piece: Rows, todo: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Cut places into runs within one shard, of `CHUNK_OBJECTS` at most."""
        shards = piece[todo] // self._dataset.planes_store.header.objects_per_shard
        for run in np.split(todo, np.flatnonzero(np.diff(shards)) + 1):
            for start in range(0, len(run), CHUNK_OBJECTS):
                yield run[start : start + CHUNK_OBJECTS]

    def _arrays(self, batch: FittedBatch) -> dict[str, NDArray[Any]]:
        if self._content == "planes":
            return {"planes": batch.planes(normalize=self._normalize)}
        dtype = self._dataset.planes_store.header.dtype
        return {"micro": batch.micro(dtype), "coefficients": batch.coefficients()}


def _ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise UsageError("give rank and world_size together")
    if rank is None or world_size is None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not distributed:
            return 0, 1
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    check_rank(rank, world_size)
    return rank, world_size
