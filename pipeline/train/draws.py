"""Random choices of a step: pure functions of labels such as seed, step and object id."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch


def seeded_generator(*labels: object) -> torch.Generator:
    """A generator that depends on the labels alone (sha256), the same in every process."""
    digest = hashlib.sha256("\x1f".join(str(label) for label in labels).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


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
        """Distinct objects of a step of ``count``; an epoch shows each of them once."""
        drawn = cycle(len(self.object_ids), count, step * count, "objects", self.seed)
        return list(dict.fromkeys(drawn))  # a step across an epoch's end may draw an object twice

    def views(self, row: int, step: int, objects_per_step: int, count: int) -> list[int]:
        """At most ``count`` views of an object: by its own visits, so that all are seen equally often."""
        visits = step * objects_per_step // len(self.object_ids)
        n_views = self.n_views[row]
        count = min(count, n_views)
        return cycle(n_views, count, visits * count, "views", self.seed, self.object_ids[row])

    def generators(self, phase: str, step: int, rows: Sequence[int]) -> list[torch.Generator]:
        """One generator per object, which does not depend on the other objects of the step."""
        return [seeded_generator(phase, self.seed, step, self.object_ids[i]) for i in rows]
