"""The dataset on disk or in an object store: plan, shards, views, planes, reader, verification.

Importing this package imports nothing heavy: `open_planes` and what it returns are fetched on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .fitted import FittedBatch as FittedBatch
    from .fitted import FittedObject as FittedObject
    from .reader import PlanesDataset as PlanesDataset
    from .reader import open_planes as open_planes

_LAZY = {
    "open_planes": "reader",
    "PlanesDataset": "reader",
    "FittedBatch": "fitted",
    "FittedObject": "fitted",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
