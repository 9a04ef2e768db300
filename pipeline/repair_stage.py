"""Mends a damaged dataset (`fpipe repair`): rebuilds, gives up, computes again, and says what is left.

First, under the dataset's lease, what follows from sound files is rebuilt, and objects whose bytes are
damaged are recorded as failed. Then those objects are rendered or fitted again as `fpipe retry` does it.
Whatever dies in between, the same command, or a retry, goes on. Nothing is deleted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.compute import ComputeSession
from pipeline.config import PipelineConfig
from pipeline.progress import Progress
from pipeline.retry_stage import RetryResult, Selection, retry_fit, retry_render
from pipeline.stages import FAILED_OBJECTS_EXIT_CODE
from pipeline.statistics_stage import store_statistics
from pipeline.writers import require_writers
from storage import layout
from storage.errors import IntegrityError, SchemaError, StoreMismatchError, UsageError
from storage.fit_statistics import rebuild_statistics
from storage.group import grow_group, rebuild_metadata
from storage.lease import Lease
from storage.passes import PassStore
from storage.planes import PlanesStore, list_fits
from storage.records import Problem
from storage.repair import DAMAGED, give_up_damaged, open_group, publish_again
from storage.replacement import finish_round, open_round
from storage.store import Store
from storage.summary import update_summary
from storage.verify import verify


@dataclass
class RepairResult:
    """What a repair did.

    Attributes:
        found: Findings before.
        rebuilt: Keys of files that were made again from sound ones.
        given_up: Objects whose stored bytes were damaged, per group.
        mended: Those that have a result again, also of repairs that were interrupted.
        failing: Those that have none, object id → failure class and reason.
        left: Findings after.
    """

    found: int = 0
    rebuilt: list[str] = field(default_factory=list)
    given_up: dict[str, list[str]] = field(default_factory=dict)
    mended: list[str] = field(default_factory=list)
    failing: dict[str, tuple[str, str]] = field(default_factory=dict)
    left: list[Problem] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Returns the result as plain JSON values."""
        failing = [{"object_id": i, "kind": kind, "reason": why} for i, (kind, why) in self.failing.items()]
        return {**vars(self), "failing": failing, "left": [asdict(problem) for problem in self.left]}

    @property
    def exit_code(self) -> int:
        """0, or 42 while something is damaged or has no result."""
        return FAILED_OBJECTS_EXIT_CODE if self.left or self.failing else 0


def repair(
    store: Store, config: PipelineConfig, session: ComputeSession, progress: Progress, command: str
) -> RepairResult:
    """Mends what can be mended.

    Args:
        store: The dataset.
        config: Resolved configuration; only `compute` is used.
        session: Computes.
        progress: Is told.
        command: Shown to others who want to change the dataset meanwhile.

    Raises:
        UsageError: There is no dataset.
        LeaseHeldError: Somebody else is replacing shards.
        ShardsFailedError: Some shards could not be computed; the others are.
    """
    problems = verify(store, full=True)
    require_writers(store, config.compute)
    result = RepairResult(found=len(problems), left=problems)
    mendable = [problem for problem in problems if problem.mend in ("rebuild", "redo")]
    damaged_lease = [problem.key for problem in problems if problem.key == layout.LEASE]
    if mendable or damaged_lease:
        progress.say(f"repair: {len(problems)} findings; mending {len(mendable + damaged_lease)} of them")
        with Lease(store, command) as lease:  # writes it anew
            result.rebuilt += damaged_lease
            for name in sorted({problem.group for problem in mendable}):
                own = [problem for problem in mendable if problem.group == name]
                _mend_group(store, name, own, lease.token, command, result)
    for again in _compute(store, config, session, progress, command):
        result.mended += again.mended
        result.failing |= again.failing
    for name in sorted({problem.group for problem in mendable}):
        if isinstance(group := open_group(store, name), PlanesStore):
            store_statistics(group, progress)  # replaced shards brought new ones
    if mendable or damaged_lease:
        result.left = verify(store, full=True)
    return result


def _mend_group(
    store: Store, name: str, problems: Sequence[Problem], token: str, command: str, result: RepairResult
) -> None:
    """Rebuilds what follows from sound files, then replaces the damaged shards of a group."""
    group = open_group(store, name)
    if grow_group(store, group.spec):
        result.rebuilt.append(layout.zarr_metadata(name))
    result.rebuilt += rebuild_metadata(store, group.spec)
    shards = {mend: {each.shard for each in problems if each.mend == mend} for mend in ("rebuild", "redo")}
    again = sorted(shard for shard in shards["rebuild"] - shards["redo"] if shard is not None)
    publish_again(group, again, token)
    result.rebuilt += [problem.key for problem in problems if problem.shard in again]
    if isinstance(group, PlanesStore):
        keys = [problem.key for problem in problems if layout.is_fit_statistics(problem.key)]
        result.rebuilt += rebuild_statistics(
            group, keys
        )  # before a round makes them those of an earlier state
    summary = layout.summary(name)
    if any(problem.key == summary for problem in problems) and update_summary(group, anew=True):
        result.rebuilt.append(summary)
    redo = sorted(shard for shard in shards["redo"] if shard is not None)
    if not redo or isinstance(group, PassStore):
        return
    current = open_round(group, token, redo, command)
    for shard in redo:
        result.given_up.setdefault(name, []).extend(give_up_damaged(group, shard, current))
    finish_round(group, token)


def _compute(
    store: Store, config: PipelineConfig, session: ComputeSession, progress: Progress, command: str
) -> Iterator[RetryResult]:
    """Renders and fits again what was given up, now or by a repair that was interrupted."""
    selection = Selection(kinds=[DAMAGED])
    if _has_damaged(store, layout.VIEWS_GROUP):
        yield retry_render(store, config, selection, session, progress, command)
    for name in list_fits(store):
        if _has_damaged(store, layout.fit_group(name)):
            yield retry_fit(store, config, name, selection, session, progress, command)


def _has_damaged(store: Store, name: str) -> bool:
    try:
        return any(failure.kind == DAMAGED for *_, failure in open_group(store, name).each_failure())
    except (IntegrityError, SchemaError, StoreMismatchError, UsageError):
        return False  # it is among what is left, or is not there yet
