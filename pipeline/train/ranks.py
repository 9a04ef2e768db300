"""What the ranks of a joint training do together: share a step's work, add gradients, agree on failures.

A step sees the same number of objects whatever the number of ranks, so that more ranks take less time per
step and leave the schedule as it is. Each rank draws its share from its own objects and multiplies its losses
by its fraction of the step: sums over the ranks are then the means over the whole step, and in the warm-up
and the joint phase two ranks equal one up to the order of additions where a step sees every object (with
fewer, the draws differ). Not so where the autoencoder is trained alone: each rank draws crops of its own
objects' views, and the linear start and the normaliser are of the first rank's. Without an initialised
`torch.distributed` there is one rank, and nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, distributed

BUCKET_BYTES = 32 * 2**20
"""Gradients are added in pieces of this size: the extra memory, and few enough messages."""


class OtherRankError(FloatingPointError):
    """A rank's gradients are not finite; raised on all ranks alike."""


def gather_from_all(value: Any) -> list[Any]:
    """Give every rank what each has, by rank; all of them wait here for each other."""
    if not _is_active():
        return [value]
    everyone: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, value)
    return everyone


def _is_active() -> bool:
    return distributed.is_available() and distributed.is_initialized()


class Ranks:
    """This rank among the others.

    Args:
        n_own: Objects of this rank. With several ranks the constructor waits for all of them.

    Attributes:
        rank: 0-based.
        world: Number of ranks.
    """

    def __init__(self, n_own: int) -> None:
        self.rank = distributed.get_rank() if _is_active() else 0
        self._sizes: list[int] = gather_from_all(n_own)
        self.world = len(self._sizes)

    @property
    def n_objects(self) -> int:
        """Objects of all ranks."""
        return sum(self._sizes)

    def share(self, wanted: int) -> int:
        """Objects that this rank draws in a step of `wanted` in all: at least one, at most all it has."""
        return self.shares(wanted)[self.rank]

    def shares(self, wanted: int) -> list[int]:
        """The same of every rank."""
        return [min(size, self._even_share(wanted, rank)) for rank, size in enumerate(self._sizes)]

    def fraction(self, wanted: int) -> float:
        """This rank's part of the objects of such a step; the parts of all ranks add up to 1."""
        return self.share(wanted) / sum(self.shares(wanted))

    def even_share(self, wanted: int) -> int:
        """Views that this rank takes of `wanted` in all, however many objects it has: at least one."""
        return self._even_share(wanted, self.rank)

    def even_fraction(self, wanted: int) -> float:
        """This rank's part of such views."""
        return self.even_share(wanted) / sum(self._even_share(wanted, rank) for rank in range(self.world))

    def _even_share(self, wanted: int, rank: int) -> int:
        return max(1, wanted // self.world + (rank < wanted % self.world))

    def sum(self, values: dict[str, float], fraction: float = 1.0) -> dict[str, float]:
        """Add up each value times the rank's fraction; not finite on all ranks where it is so on one."""
        if self.world == 1:
            return values
        total = torch.tensor(list(values.values()), dtype=torch.float64) * fraction
        distributed.all_reduce(total)
        return dict(zip(values, total.tolist(), strict=True))

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank the first rank's values."""
        if self.world > 1:
            for tensor in tensors:
                distributed.broadcast(tensor.data, 0)

    def sum_before(self, optimiser: torch.optim.Optimizer, fraction: float = 1.0) -> None:
        """Add the gradients of all ranks, times their fractions, before every step of an optimiser.

        The step then raises FloatingPointError on all ranks where one has a gradient that is not finite.
        """
        if self.world > 1:
            optimiser.register_step_pre_hook(lambda *_: self._sum_gradients(optimiser, fraction))

    def fail(self, optimiser: torch.optim.Optimizer) -> None:
        """Take part in an optimiser's step that this rank cannot do, so that no other rank waits for it."""
        if self.world > 1:
            for param in _params(optimiser):
                param.grad = torch.full_like(param, torch.nan)
            _add_gradients(list(_params(optimiser)))

    def _sum_gradients(self, optimiser: torch.optim.Optimizer, fraction: float) -> None:
        params = [param for param in _params(optimiser) if param.grad is not None]
        if fraction != 1.0:
            for param in params:
                assert param.grad is not None
                param.grad.mul_(fraction)
        if not _add_gradients(params):
            raise OtherRankError("a rank's gradients are not finite any more")


def is_finite(tensors: Iterable[Tensor | None]) -> bool:
    """Whether all numbers of tensors are finite: one pass over each, and one answer from the device."""
    sums = [tensor.sum() for tensor in tensors if tensor is not None and tensor.numel()]
    return not sums or bool(torch.isfinite(torch.stack(sums)).all())


def _add_gradients(params: list[Tensor]) -> bool:
    """Add gradients over the ranks in place; say whether all of them are finite."""
    finite = True
    for bucket in _buckets(params):
        flat = torch.cat([grad.reshape(-1) for grad in bucket])
        distributed.all_reduce(flat)
        finite = finite and bool(torch.isfinite(flat.sum()))
        sizes = [grad.numel() for grad in bucket]
        for grad, part in zip(bucket, torch.split(flat, sizes), strict=True):
            grad.copy_(part.view(grad.shape))
    return finite


def _params(optimiser: torch.optim.Optimizer) -> Iterator[Tensor]:
    for group in optimiser.param_groups:
        yield from group["params"]


def _buckets(params: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for param in params:
        assert param.grad is not None
        n_bytes = param.grad.numel() * param.grad.element_size()
        if bucket and size + n_bytes > BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
        bucket.append(param.grad)
        size += n_bytes
    if bucket:
        yield bucket
