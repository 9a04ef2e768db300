"""What a fit notes about its refinements (`fpipe fit-objects --refine`), and reads again; needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from storage.shards import Sidecar

OBJECT_NOTE: Final = "refined"
"""In the info of an object: its last refinement, and how many there were."""

_SHARD_NOTES: Final = "refinements"  # in the info of a shard: `RefinementNote`s, oldest first


@dataclass(frozen=True)
class RefinementNote:
    """What a shard says about one refinement.

    Attributes:
        fit_config: Configuration that it was made with; the fit's header has the first fit's.
        fit_config_hash: Of the same.
        seconds: Wall time.
        host: Machine.
        device: "cpu" or "cuda".
    """

    fit_config: dict[str, Any]
    fit_config_hash: str
    seconds: float
    host: str
    device: str


def refinements(sidecar: Sidecar) -> list[RefinementNote]:
    """The refinements of a shard, oldest first."""
    return [RefinementNote(**note) for note in sidecar.info.get(_SHARD_NOTES, [])]


def with_refinement(sidecar: Sidecar, note: RefinementNote) -> dict[str, Any]:
    """The info of a shard after one more refinement."""
    notes = [*refinements(sidecar), note]
    return {**sidecar.info, _SHARD_NOTES: [asdict(each) for each in notes]}


def times_text(times: int) -> str:
    """Returns "once", "twice", "3 times"."""
    return {1: "once", 2: "twice"}.get(times, f"{times} times")
