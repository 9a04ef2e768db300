"""What a fit notes about its refinements (`fpipe fit-objects --refine`), and reads again; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from storage.shards import Sidecar

OBJECT_NOTE: Final = "refined"
"""In the info of an object: its last refinement, and how many there were."""

_LAST_IMPROVING: Final = "last_improving"
"""In that note, where the last refinement changed nothing: the one that made the code."""

_COUNTS: Final = ("times", "times_improved")

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


def with_object_refinement(info: Mapping[str, Any], note: Mapping[str, Any]) -> dict[str, Any]:
    """The info of an object after one more refinement.

    Args:
        info: Of the object.
        note: What the refinement did; ``improved`` says whether the object got a new code.
    """
    before = info.get(OBJECT_NOTE, {})
    improved = bool(note.get("improved"))
    done = (1, int(improved))
    refined = {name: before.get(name, 0) + more for name, more in zip(_COUNTS, done, strict=True)}
    improving = None if improved else _improving(before)
    if improving is not None:
        refined[_LAST_IMPROVING] = improving
    return {**info, OBJECT_NOTE: {**refined, **note}}


def stored_record(info: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is recorded of the fit that made the code which an object has now: steps, curve and so on.

    It is the first fit's record, or that of the last refinement that improved the object; empty where an
    older version did not keep that.
    """
    refined = info.get(OBJECT_NOTE, {})
    improving = _improving(refined)
    if improving is not None:
        return improving
    return {} if refined.get("times_improved") else info


def _improving(refined: Mapping[str, Any]) -> dict[str, Any] | None:
    """The last refinement that improved an object, of its note; None where there is none."""
    if refined.get("improved"):
        return {name: value for name, value in refined.items() if name not in _COUNTS}
    return refined.get(_LAST_IMPROVING)


def times_text(times: int) -> str:
    """Returns "once", "twice", "3 times"."""
    return {1: "once", 2: "twice"}.get(times, f"{times} times")
