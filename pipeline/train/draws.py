"""Random choices of a step: pure functions of labels such as seed, step and object id."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch


def seeded_generator(*labels: object) -> torch.Generator:
    """A generator that depends on the labels alone (sha256), the same in every process."""
    return torch.Generator().manual_seed(seeded_number(*labels))


def seeded_number(*labels: object) -> int:
    """A number below 2**63 that depends on the labels alone."""
    digest = hashlib.sha256("\x1f".join(str(label) for label in labels).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def cycle(n: int, count: int, position: int, *labels: object) -> list[int]:
    """Items ``position .. position + count`` of an endless sequence of seeded permutations of range(n)."""
    items: list[int] = []
    epoch, offset = divmod(position, n)
    while len(items) < count:
        order = torch.randperm(n, generator=seeded_generator("cycle", epoch, *labels)).tolist()
        items.extend(order[offset : offset + count - len(items)])
        epoch, offset = epoch + 1, 0
    return items


@dataclass(frozen=True)
class ObjectDraws:
    """What a training step draws from one rank's objects.

    Attributes:
        object_ids: The objects.
        n_views: Training views of each.
        seed: Of the training.
    """

    object_ids: Sequence[str]
    n_views: Sequence[int]
    seed: int

    def objects(self, step: int, count: int) -> list[int]:
        """Distinct objects of a phase's step of ``count``; an epoch shows each of them once."""
        return list(self._visits(step, count))

    def views(self, step: int, count: int, views: int) -> dict[int, list[int]]:
        """Views of each object of such a step, so that all views of an object are seen equally often.

        Args:
            step: Steps of the phase that are done.
            count: Objects per step, at most all.
            views: Views per visit to an object, at most all that it has.

        Returns:
            By object, in the order of `objects`; an object that a step across an epoch's end visits twice has
            the views of both visits.
        """
        return {row: self._views(row, visits, views) for row, visits in self._visits(step, count).items()}

    def _visits(self, step: int, count: int) -> dict[int, list[int]]:
        """Which of their visits the objects of a step have: an object is visited once per epoch."""
        first, n = step * count, len(self.object_ids)
        visits: dict[int, list[int]] = {}
        for position, row in enumerate(cycle(n, count, first, "objects", self.seed), first):
            visits.setdefault(row, []).append(position // n)
        return visits

    def _views(self, row: int, visits: Sequence[int], count: int) -> list[int]:
        n_views = self.n_views[row]
        count = min(count, n_views)
        labels = ("views", self.seed, self.object_ids[row])
        return [view for visit in visits for view in cycle(n_views, count, visit * count, *labels)]

    def generators(self, phase: str, step: int, rows: Sequence[int]) -> list[torch.Generator]:
        """One generator per object, which does not depend on the other objects of the step."""
        return [seeded_generator(phase, self.seed, step, self.object_ids[i]) for i in rows]


def every_nth_window(
    of_ranks: Sequence[ObjectDraws], shares: Sequence[int], rank: int, step: int, views: int, n: int
) -> tuple[list[int], int]:
    """Choose every n-th window of a step of all ranks, in a seeded order that does not depend on the ranks.

    Args:
        of_ranks: What each rank draws from.
        shares: Objects per step of each.
        rank: This rank.
        step: Steps of the phase that are done.
        views: Views per visit, each of which is a window.
        n: The first window is chosen, and every n-th after it.

    Returns:
        The chosen ones among this rank's windows, ascending, and how many are chosen on all ranks.
    """
    windows = []
    for owner, (draws, share) in enumerate(zip(of_ranks, shares, strict=True)):
        drawn = [(row, view) for row, own in draws.views(step, share, views).items() for view in own]
        for index, (row, view) in enumerate(drawn):
            key = seeded_number("window", draws.seed, step, draws.object_ids[row], view)
            windows.append((key, owner, index))
    chosen = sorted(windows)[::n]
    return sorted(index for _, owner, index in chosen if owner == rank), len(chosen)
