"""The journal of one group: how often shards were replaced, and which replacements are under way.

It lets a reader keep to one snapshot. Generation 0 is the first commit of every shard; each round of
replacements has the next number, and the shards that it may replace are `open` until their derived arrays
and markers say the same as their files again. Only the holder of the lease writes it.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import layout
from .documents import SCHEMA_VERSION, dump_document, parse_document
from .store import Store


@dataclass(frozen=True)
class Journal:
    """What the journal says.

    Attributes:
        generation: Number of the last round of replacements, 0 when there was none.
        open: Shards whose derived arrays may differ from their files at the moment.
        command: What opened the last round, for people: the command that goes on with it.
    """

    generation: int = 0
    open: frozenset[int] = frozenset()
    command: str = ""


def read_journal(store: Store, group: str) -> Journal:
    """Read the journal of a group; raises IntegrityError when it is damaged."""
    key = layout.journal(group)
    try:
        data = store.read(key)
    except FileNotFoundError:
        return Journal()
    values = parse_document(data, key)
    return Journal(int(values["generation"]), frozenset(values["open"]), str(values.get("command", "")))


def journal_version(store: Store, group: str) -> str | None:
    """Return the version of a group's journal, None when there is none; to be asked before it is read."""
    return store.known_version(layout.journal(group))


def write_journal(store: Store, group: str, journal: Journal, version: str | None) -> bool:
    """Write the journal of a group, unless somebody has since its version was asked; say whether it is so.

    A holder that stalled, and lost the lease meanwhile, must not undo what the next one wrote.
    """
    values = {
        "generation": journal.generation,
        "open": sorted(journal.open),
        "command": journal.command,
    }
    return store.exchange(
        layout.journal(group), dump_document({"schema_version": SCHEMA_VERSION, **values}), version
    )
