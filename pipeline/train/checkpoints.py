"""Checkpoints of the joint training on any store: two slots per rank, each replaced whole.

Nothing is deleted, so no store needs a delete and a torn write cannot lose the checkpoint before it. Files
are read with `weights_only=True`: a store cannot run code.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch

from storage.store import Store

SLOTS = 2


class Checkpoints:
    """The checkpoints of one rank of one training run.

    Args:
        store: the dataset.
        folder: key prefix of the run.
        rank: this rank.
    """

    def __init__(self, store: Store, folder: str, rank: int) -> None:
        self._store = store
        self._prefix = f"{folder}/checkpoint-rank{rank}"
        self._next_slot = 0

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Writes the state of a step over the older of the two slots."""
        buffer = io.BytesIO()
        torch.save({"step": step, "state": state}, buffer)
        self._store.replace(self._key(self._next_slot), buffer.getvalue())
        self._next_slot = (self._next_slot + 1) % SLOTS

    def steps(self) -> list[int]:
        """Returns the steps that can be loaded, ascending."""
        return sorted(int(found["step"]) for slot in range(SLOTS) if (found := self._read(slot)) is not None)

    def load(self, step: int) -> dict[str, Any]:
        """Returns the state of a step; the next save overwrites the other slot.

        Raises:
            KeyError: no slot holds this step.
        """
        for slot in range(SLOTS):
            found = self._read(slot)
            if found is not None and int(found["step"]) == step:
                self._next_slot = (slot + 1) % SLOTS
                state: dict[str, Any] = found["state"]
                return state
        raise KeyError(f"{self._prefix}: no checkpoint of step {step}")

    def _read(self, slot: int) -> dict[str, Any] | None:
        try:
            data = self._store.read(self._key(slot))
            found: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except (
            RuntimeError,
            EOFError,
            pickle.UnpicklingError,
        ):  # damaged: as if it were not there, the other slot counts
            return None
        return found

    def _key(self, slot: int) -> str:
        return f"{self._prefix}-{slot}.pt"
