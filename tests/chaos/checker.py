"""Holds what the actors believed against what the store has in the end; counts what must never happen.

A shard's files form a chain: every file names the one that it was built from. Whoever was told "this is the
shard's file now" must be in the chain of the final file, and no two of them may have the same parent.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from tests.chaos.content import FIT
from tests.chaos.logbook import LABELS, Entry
from tests.chaos.subject import FinalShard


@dataclass
class Findings:
    """What must be zero, and what it was.

    Attributes:
        inconsistent_shards: Shards whose content is not that of one file that somebody built.
        lost_objects: Objects without a record, or of which a writer was told that they are stored.
        doubly_committed: Times that a second writer was told to have won.
        bad_reads: Times that a reader was given something that no attempt had made.
        wrong_configs: Writers of another configuration that were let in.
        leftovers: Damage of the dataset as a whole, temporary files, locks.
        messages: One for each.
    """

    inconsistent_shards: int = 0
    lost_objects: int = 0
    doubly_committed: int = 0
    bad_reads: int = 0
    wrong_configs: int = 0
    leftovers: int = 0
    messages: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return (
            self.inconsistent_shards
            + self.lost_objects
            + self.doubly_committed
            + self.bad_reads
            + self.wrong_configs
            + self.leftovers
        )

    def add(self, name: str, count: int, message: str) -> None:
        if count:
            setattr(self, name, getattr(self, name) + count)
            self.messages.append(f"{name}: {message}")


@dataclass(frozen=True)
class _Built:
    shard: int
    parent: str | None
    labels: LABELS


def check(
    n_shards: int,
    rows_of: Callable[[int], range],
    final: Callable[[int], FinalShard],
    leftovers: Iterable[str],
    entries: Iterable[Entry],
    accepted_writes: Mapping[str, Mapping[str, int]],
) -> Findings:
    """Check a run that is over.

    Args:
        n_shards: Shards of the dataset; all of them must be there.
        rows_of: Shard -> rows of the plan.
        final: Looks at one shard.
        leftovers: What is wrong with the dataset as a whole.
        entries: All logbooks.
        accepted_writes: Path -> "create" and others -> how many such writes the server accepted.
    """
    findings, entries = Findings(), list(entries)
    built = {
        entry.values["attempt"]: _Built(entry.values["shard"], entry.values["parent"], entry.labels)
        for entry in entries
        if entry.event == "built"
    }
    claims: dict[int, list[str]] = defaultdict(list)
    for entry in entries:
        if entry.event == "claimed":
            claims[entry.values["shard"]].append(entry.values["attempt"])
    for shard in range(n_shards):
        _check_shard(findings, shard, rows_of(shard), final(shard), claims[shard], built)
    for path, how in accepted_writes.items():
        extra = how.get("create", 0) - 1
        findings.add("doubly_committed", max(0, extra), f"{path}: {extra + 1} first writes accepted")
    _check_readers(findings, entries, built)
    _check_configs(findings, entries)
    for message in leftovers:
        findings.add("leftovers", 1, message)
    return findings


def _check_shard(
    findings: Findings,
    shard: int,
    rows: range,
    found: FinalShard,
    claims: list[str],
    built: Mapping[str, _Built],
) -> None:
    where = f"shard {shard} ({found.attempt or 'no file'})"
    problems = list(found.problems)
    own = built.get(found.attempt)
    if own is None or own.shard != shard:
        problems.append("nobody built this file")
    elif own.labels != found.labels:
        problems.append(f"labels {found.labels}, but its writer wrote {own.labels}")
    findings.add("inconsistent_shards", int(bool(problems)), f"{where}: {'; '.join(problems)}")
    missing = sorted(set(rows) - set(found.labels))
    findings.add("lost_objects", len(missing), f"{where}: rows {missing} are not there")
    for parent, count in Counter(built[claim].parent for claim in claims).items():
        what = f"{count} writers were told to have followed {parent or 'nothing'}"
        findings.add("doubly_committed", count - 1, f"{where}: {what}")
    chain = _chain(found.attempt, built)
    for claim in sorted(set(claims) - chain):
        own_rows = [row for row, label in built[claim].labels.items() if label == claim]
        findings.add("lost_objects", len(own_rows), f"{where}: rows {own_rows} of {claim} are gone")


def _chain(attempt: str, built: Mapping[str, _Built]) -> set[str]:
    """Names of a file and of all that it was built from."""
    chain: set[str] = set()
    parent: str | None = attempt
    while parent and parent in built and parent not in chain:
        chain.add(parent)
        parent = built[parent].parent
    return chain


def _check_readers(findings: Findings, entries: list[Entry], built: Mapping[str, _Built]) -> None:
    for entry in entries:
        if entry.event == "bad_read":
            findings.add("bad_reads", 1, f"{entry.actor}: {entry.values['message']}")
        elif entry.event == "seen":
            own, row = built.get(entry.values["attempt"]), entry.values["row"]
            if own is None or own.labels.get(row) != entry.values["label"]:
                findings.add("bad_reads", 1, f"{entry.actor}: row {row}: no file held {entry.values}")


def _check_configs(findings: Findings, entries: list[Entry]) -> None:
    let_in: dict[str, set[int]] = defaultdict(set)
    let_in[FIT].add(2)
    for entry in entries:
        if entry.event == "accepted":
            let_in[entry.values["fit"]].add(entry.values["steps"])
    for fit, steps in let_in.items():
        findings.add("wrong_configs", len(steps) - 1, f"{fit}: configurations {sorted(steps)} were let in")
