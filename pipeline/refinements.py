"""What a fit notes about its refinements (`fpipe fit-objects --refine`), and reads again; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
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
        circumstances: Host, device, batch and the like, as the info of a shard has them of its first fit;
            what an older version noted has fewer.
    """

    fit_config: dict[str, Any]
    fit_config_hash: str
    seconds: float
    circumstances: dict[str, Any]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RefinementNote:
        """What `as_json` returned."""
        own = ("fit_config", "fit_config_hash", "seconds")
        rest = {name: value for name, value in values.items() if name not in own}
        return cls(values["fit_config"], values["fit_config_hash"], values["seconds"], rest)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values; the circumstances stand beside the others."""
        own = {name: value for name, value in vars(self).items() if name != "circumstances"}
        return own | self.circumstances


def refinements(sidecar: Sidecar) -> list[RefinementNote]:
    """The refinements of a shard, oldest first."""
    return [RefinementNote.from_json(note) for note in sidecar.info.get(_SHARD_NOTES, [])]


def with_refinement(sidecar: Sidecar, note: RefinementNote) -> dict[str, Any]:
    """The info of a shard after one more refinement."""
    notes = [*refinements(sidecar), note]
    return {**sidecar.info, _SHARD_NOTES: [each.as_json() for each in notes]}


def times_text(times: int) -> str:
    """Returns "once", "twice", "3 times"."""
    return {1: "once", 2: "twice"}.get(times, f"{times} times")
