"""Checkpoints of the joint training on any store: the last few of every rank, each replaced whole.

A checkpoint is two objects: the state, a file of `torch.save`, and a record with its step, size and sha256,
written after it. A state that is not the one its record names was cut off or damaged, and counts as absent:
the checkpoint before it is used. Nothing is deleted, so no store needs a delete. States are read with
`weights_only=True`: a store cannot run code. Random choices need no state: they depend on the seed and the
step alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from storage.errors import StoreMismatchError
from storage.store import Store


@dataclass(frozen=True)
class CheckpointRecord:
    """What is known of a checkpoint without reading it.

    Attributes:
        step: Steps done.
        bytes: Size of the state.
        sha256: Of the state.
        world: Ranks of the training, of whose objects each has a part; None in records of older versions.
    """

    step: int
    bytes: int
    sha256: str
    world: int | None = None


class Checkpoints:
    """The checkpoints of one rank of one training run.

    Args:
        store: The dataset.
        folder: Key prefix of the run.
        rank: This rank.
        keep: How many are kept, at least 2: while one is overwritten another has to be whole.
        world: Number of ranks.

    Attributes:
        newest: Step and key of the newest checkpoint that this process wrote or went on from, None before.
    """

    def __init__(self, store: Store, folder: str, rank: int, keep: int = 2, world: int = 1) -> None:
        if keep < 2:
            raise ValueError(f"{keep} checkpoints cannot be replaced safely: keep at least 2")
        self._store, self._folder, self._keep = store, folder, keep
        self._rank, self._world = rank, world
        self._next_slot = 0
        self.newest: tuple[int, str] | None = None

    def save(self, step: int, state: dict[str, Any]) -> int:
        """Write the state of a step over the oldest checkpoint.

        Returns:
            Bytes written.

        Raises:
            FloatingPointError: The state has a number that is not finite: the checkpoints before are better.
        """
        require_finite(step, state)
        buffer = io.BytesIO()
        torch.save({"step": step, "state": state}, buffer)
        data = buffer.getvalue()
        record = CheckpointRecord(step, len(data), hashlib.sha256(data).hexdigest(), self._world)
        slot = self._next_slot
        self._store.replace(self._key(slot, "pt"), data)
        self._store.replace(self._key(slot, "json"), json.dumps(asdict(record)).encode())
        self.newest = (step, self._key(slot, "pt"))
        self._next_slot = (slot + 1) % self._keep
        return len(data)

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, ascending; reads the records alone."""
        return sorted({record.step for record in self._records().values()})

    def load(self, step: int) -> dict[str, Any] | None:
        """Return the state of a step, None where it is missing or damaged."""
        for (_, slot), record in self._records().items():
            if record.step == step and (state := self._read(slot, record)) is not None:
                return state
        return None

    def go_on_from(self, step: int) -> None:
        """Take a step's checkpoint, which was loaded, for the newest: it is the last to be replaced."""
        for (_, slot), record in self._records().items():
            if record.step == step:
                self._next_slot = (slot + 1) % self._keep
                self.newest = (step, self._key(slot, "pt"))

    def require_same_world(self) -> None:
        """Look at the records of all ranks.

        Raises:
            StoreMismatchError: One is of another number of ranks: each has the state of its own objects.
        """
        for record in self._records(everyone=True).values():
            if record.world not in (None, self._world):
                raise StoreMismatchError(
                    f"train-shared has {self._world} ranks, but was interrupted after step {record.step} "
                    f"with {record.world}: set compute.train_workers to {record.world} to continue, or start "
                    f"over: delete {self.everything}"
                )

    @property
    def everything(self) -> str:
        """The keys of all ranks' checkpoints, for messages."""
        return f"{self._folder}/checkpoint-rank* in {self._store.url}"

    def _records(self, *, everyone: bool = False) -> dict[tuple[int, int], CheckpointRecord]:
        """Returns the records by rank and slot, those of a run that kept more included."""
        ranks = r"\d+" if everyone else str(self._rank)
        pattern = re.compile(rf"checkpoint-rank({ranks})-(\d+)\.json")
        found = {}
        for name in self._store.list(self._folder):
            if match := pattern.fullmatch(name):
                with contextlib.suppress(ValueError, TypeError):  # a damaged record is none
                    values = json.loads(self._store.read(f"{self._folder}/{name}"))
                    found[int(match[1]), int(match[2])] = CheckpointRecord(**values)
        return found

    def _read(self, slot: int, record: CheckpointRecord) -> dict[str, Any] | None:
        try:
            data = self._store.read(self._key(slot, "pt"))
        except FileNotFoundError:
            return None
        if len(data) != record.bytes or hashlib.sha256(data).hexdigest() != record.sha256:
            return None
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        state: dict[str, Any] = found["state"]
        return state

    def _key(self, slot: int, suffix: str) -> str:
        return f"{self._folder}/checkpoint-rank{self._rank}-{slot}.{suffix}"


def require_finite(step: int, state: dict[str, Any]) -> None:
    """Look at all tensors of a nested state.

    Raises:
        FloatingPointError: A number is not finite; names the step and where it lies.
    """
    for path, tensor in _tensors(state):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise FloatingPointError(f"after step {step} {path} is not finite any more")


def _tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yields all tensors of a nested state with their paths."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _tensors(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, (list, tuple)) and value and not isinstance(value[0], (int, float, str)):
        for position, inner in enumerate(value):
            yield from _tensors(inner, f"{path}[{position}]")
