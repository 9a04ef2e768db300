"""Counts the bytes of tensors that are alive while code runs: real tensors, or `meta` ones without numbers.

What the system gives out besides (workspaces of convolutions, the allocator's gaps) is not seen.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context: tensors made inside count from their making until they are freed.

    Attributes:
        now: Bytes alive.
        peak_forward: Most bytes alive outside a backward.
        peak_backward: Most bytes alive inside one.
        at_backward: Bytes alive when the last backward began: what the graph keeps.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak_forward = self.peak_backward = self.at_backward = 0
        self._alive: dict[int, tuple[Any, int]] = {}
        self._task = -1

    @property
    def peak(self) -> int:
        """Most bytes alive at a time."""
        return max(self.peak_forward, self.peak_backward)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        task = torch._C._current_graph_task_id()
        if task not in (-1, self._task):
            self.at_backward = self.now
        self._task = task if task != -1 else self._task
        inputs = {id(_storage(leaf)) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and id(_storage(leaf)) not in inputs:
                self._count(_storage(leaf))
        if task == -1:
            self.peak_forward = max(self.peak_forward, self.now)
        else:
            self.peak_backward = max(self.peak_backward, self.now)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._alive:
            return
        self.now += size

        def freed(_: Any) -> None:
            if self._alive.pop(key, None) is not None:
                self.now -= size

        self._alive[key] = (weakref.ref(storage, freed), size)


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    # One Python object per storage as long as it lives, which makes it a key.
    return tensor.untyped_storage()
