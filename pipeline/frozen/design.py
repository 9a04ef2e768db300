"""What is compared: which objects, which halves of their views, which blocks. Pure functions of the seed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.fit.draws import object_key
from pipeline.frozen.blocks import MODES, Mode
from storage.errors import UsageError

Half = Literal["a", "b"]
HALVES: Final[tuple[Half, ...]] = ("a", "b")


@dataclass(frozen=True)
class Design:
    """One comparison.

    Attributes:
        class_name: Class of the objects.
        rows: Of the objects, in the plan; ascending.
        block: Objects that share components of their own, where a mode trains any.
        seed: Of blocks and halves, and with it of the fits.
    """

    class_name: str
    rows: tuple[int, ...]
    block: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "rows": list(self.rows)}

    @staticmethod
    def of_json(values: dict[str, Any]) -> Design:
        """The design that `to_json` gave."""
        return Design(**{**values, "rows": tuple(values["rows"])})

    def fit_seed(self, half: Half) -> int:
        """Seed of the fits to one half: the two have no random number in common."""
        return object_key("fit half", self.seed, half)


@dataclass(frozen=True)
class BlockJob:
    """One block to fit.

    Attributes:
        number: Among all jobs.
        mode: What is trained.
        half: Which views are seen.
        block: Number of the block within mode and half.
        rows: Its objects.
    """

    number: int
    mode: Mode
    half: Half
    block: int
    rows: tuple[int, ...]

    @property
    def name(self) -> str:
        """Of the file with its result."""
        return f"{self.mode.name}-{self.half}-{self.block:03d}"


def choose_rows(
    rows_by_class: dict[str, list[int]], class_name: str | None, count: int, seed: int
) -> tuple[str, tuple[int, ...]]:
    """Draw the objects.

    Args:
        rows_by_class: Objects that were rendered and not trained jointly.
        class_name: Class to take, None for the one with the most objects.
        count: How many.
        seed: Of the draw.

    Returns:
        The class, and rows in ascending order.

    Raises:
        UsageError: There is no such class, or it has too few objects.
    """
    chosen = class_name or max(rows_by_class, key=lambda name: len(rows_by_class[name]), default=None)
    if chosen is None or not rows_by_class.get(chosen):
        known = ", ".join(f"{name} {len(rows)}" for name, rows in sorted(rows_by_class.items()))
        raise UsageError(
            f"compare-frozen: no rendered object of class {class_name or 'any'} is left that the shared "
            f"components were not trained on; there are: {known or 'none'}"
        )
    rows = rows_by_class[chosen]
    if len(rows) < count:
        raise UsageError(
            f"compare-frozen: {len(rows)} rendered objects of class {chosen} were not trained jointly, "
            f"{count} are asked for: give --objects {len(rows)}, or render more"
        )
    order = _permutation(len(rows), "objects", seed)[:count]
    return chosen, tuple(sorted(rows[i] for i in order))


def jobs_of(design: Design) -> list[BlockJob]:
    """All blocks of a comparison.

    A half has blocks of its own: an object that is fitted again comes in other company. The modes take turns,
    so that a machine's other load, which makes steps dearer, meets all of them.
    """
    jobs: list[BlockJob] = []
    for half in HALVES:
        order = _permutation(len(design.rows), "blocks", design.seed, half)
        shuffled = [design.rows[i] for i in order]
        for block, start in enumerate(range(0, len(shuffled), design.block)):
            rows = tuple(shuffled[start : start + design.block])
            for mode in MODES:
                jobs.append(BlockJob(len(jobs), mode, half, block, rows))
    return jobs


def half_of_views(heldout: NDArray[np.bool_], half: Half, object_id: str, seed: int) -> NDArray[np.int64]:
    """View numbers of one half of an object's training views, ascending; the halves are disjoint.

    Raises:
        UsageError: There are fewer than two training views.
    """
    train = np.flatnonzero(~heldout)
    if len(train) < 2:
        raise UsageError(f"{object_id} has {len(train)} training views: two halves need at least 2")
    order = _permutation(len(train), "views", seed, object_id)
    middle = len(train) // 2
    own = order[:middle] if half == "a" else order[middle:]
    return np.sort(train[own])


def _permutation(n: int, *labels: object) -> NDArray[np.int64]:
    return np.random.default_rng(object_key("frozen choice", *labels)).permutation(n)
