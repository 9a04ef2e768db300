"""Tries failed objects again, shard by shard, and puts those that work now into the dataset.

Only objects that are recorded as failed are touched, in shards that are done. The shards are replaced in one
round (see `storage.replacement`) under the dataset's lease, so that two of these never meet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.compute import ComputeSession
from pipeline.config import PipelineConfig
from pipeline.executor import TaskFunction, TaskResources
from pipeline.progress import Progress
from pipeline.render_stage import render_task
from pipeline.run import record_run
from pipeline.stages import FAILED_OBJECTS_EXIT_CODE, ShardsFailedError, run_shards
from pipeline.statistics_stage import store_statistics
from pipeline.writers import require_writers
from render_jobs.outputs import pass_stores
from render_jobs.retry import is_selected, retry_shard
from storage.errors import UsageError
from storage.lease import Lease
from storage.plan import read_plan
from storage.planes import PlanesStore, list_fits
from storage.records import Failure
from storage.replacement import Round, finish_round, open_round
from storage.sharded import ShardedStore
from storage.store import Store
from storage.summary import update_summary
from storage.views import ViewsStore


@dataclass(frozen=True)
class Selection:
    """Which failed objects are tried again; None takes all.

    Attributes:
        kinds: Failure classes.
        objects: Object ids.
    """

    kinds: Collection[str] | None = None
    objects: Collection[str] | None = None

    def arguments(self) -> dict[str, list[str] | None]:
        """Returns the arguments of a task."""
        kinds, objects = self.kinds, self.objects
        return {
            "kinds": None if kinds is None else sorted(kinds),
            "objects": None if objects is None else sorted(objects),
        }


@dataclass
class RetryResult:
    """What a retry did.

    Attributes:
        stage: "render" or "fit-objects".
        tried: Objects that were tried again.
        mended: Those that have a result now.
        failing: Those of the selection that still have none, object id → failure class and reason.
        waiting: Those of them that were not tried, because they cannot be fitted before they are rendered.
        other_kinds: Failure classes outside the selection, with their numbers of objects.
        undone: Shards of the stage that are not done, and were not touched.
        fits: Fits that may lack the mended objects.
    """

    stage: str
    tried: int = 0
    mended: list[str] = field(default_factory=list)
    failing: dict[str, tuple[str, str]] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    other_kinds: dict[str, int] = field(default_factory=dict)
    undone: int = 0
    fits: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Returns the result as plain JSON values."""
        failing = [{"object_id": i, "kind": kind, "reason": why} for i, (kind, why) in self.failing.items()]
        return {**vars(self), "failing": failing}

    @property
    def exit_code(self) -> int:
        """0, or 42 while objects of the selection have no result."""
        return FAILED_OBJECTS_EXIT_CODE if self.failing else 0


@dataclass(frozen=True)
class _Work:
    """What is done again, and how; `passes` are replaced together with the group."""

    stage: str
    group: ShardedStore
    function: TaskFunction
    arguments: Mapping[str, Any]
    resources: TaskResources
    passes: Sequence[ShardedStore]
    can_end_otherwise: Callable[[int, Failure], bool]


def retry_render(
    store: Store,
    config: PipelineConfig,
    selection: Selection,
    session: ComputeSession,
    progress: Progress,
    command: str,
) -> RetryResult:
    """Renders failed objects again, with the configuration of the plan and the limits of `config`.

    Args:
        store: The dataset.
        config: Resolved configuration; only `compute` is used.
        selection: Which objects.
        session: Computes.
        progress: Is told.
        command: Shown to others who want to change the dataset meanwhile.

    Raises:
        UsageError: No dataset, unknown object, or one whose shard is not done.
        LeaseHeldError: Somebody else is replacing shards.
        ShardsFailedError: Some shards could not be done; the others are.
    """
    compute = config.compute
    views = ViewsStore.open(store)
    work = _Work(
        "render",
        views,
        retry_shard,
        {
            "root_url": store.url,
            "limits": compute.limits.model_dump(mode="json"),
        },
        render_task(compute, views.spec.objects_per_shard),
        pass_stores(views),
        lambda row, failure: True,
    )
    result = _retry(work, config, selection, session, progress, command)
    result.fits = list_fits(store) if result.mended else []
    return result


def retry_fit(
    store: Store,
    config: PipelineConfig,
    name: str | None,
    selection: Selection,
    session: ComputeSession,
    progress: Progress,
    command: str,
) -> RetryResult:
    """Fits failed objects again; those that could not be rendered wait until they are.

    Args:
        store: The dataset.
        config: Resolved configuration; only `compute` is used.
        name: Of the fit, None for the published one.
        selection: Which objects.
        session: Computes.
        progress: Is told.
        command: Shown to others who want to change the dataset meanwhile.

    Raises:
        UsageError: No dataset or fit, unknown object, or one whose shard is not done.
        LeaseHeldError, ShardsFailedError: See `retry_render`.
    """
    from pipeline.fit.resources import FitResources
    from pipeline.fit.retry import can_be_fitted, retry_fit_shard  # needs torch

    read_plan(store)
    if not list_fits(store):
        raise UsageError(f"{store.url}: nothing has been fitted yet: run fpipe fit-objects {store.url}")
    compute = config.compute
    planes, views_status = PlanesStore.open(store, name), ViewsStore.open(store).status()
    work = _Work(
        "fit-objects",
        planes,
        retry_fit_shard,
        {
            "root_url": store.url,
            "fit_name": planes.header.name,
            "resources": FitResources.of(compute.fit_cpus, compute.fit_gpus, compute.kernel),
        },
        compute.fit_task(),
        (),
        lambda row, failure: can_be_fitted(failure, int(views_status[row])),
    )
    return _retry(work, config, selection, session, progress, command)


def _retry(
    work: _Work,
    config: PipelineConfig,
    selection: Selection,
    session: ComputeSession,
    progress: Progress,
    command: str,
) -> RetryResult:
    group, store = work.group, work.group.store
    _check_objects(group, selection)
    require_writers(store, config.compute)
    with Lease(store, command) as lease:
        groups = (*work.passes, group)  # in this order: what has views has its passes
        for each in groups:
            finish_round(each, lease.token)  # of a retry that was killed
        result, sizes = _choose(work, selection)
        if not sizes:
            return result
        rounds = {each.spec.kind: open_round(each, lease.token, sizes, command) for each in groups}
        generations = {kind: opened.generation for kind, opened in rounds.items()}
        current = Round(lease.token, generations.pop(group.spec.kind))
        with record_run(store, f"retry-{work.stage}", config.model_dump(mode="json")) as run:
            arguments = {**work.arguments, **selection.arguments(), **vars(current)}
            if generations:
                arguments["pass_generations"] = generations
            unfinished = None
            try:
                run_shards(
                    f"retry {work.stage}",
                    session.executor,
                    work.function,
                    arguments,
                    sorted(sizes),
                    sizes,
                    frozenset(),
                    work.resources,
                    progress,
                    run,
                )
            except ShardsFailedError as error:
                unfinished = error
            for each in groups:
                finish_round(each, lease.token)
                update_summary(each)
            if isinstance(group, PlanesStore):
                store_statistics(group, progress)
            _look_again(group, result)
            run.summary = {**run.summary, **result.as_json()}
            if unfinished is not None:
                raise unfinished
    return result


def _check_objects(group: ShardedStore, selection: Selection) -> None:
    """Raises UsageError for objects that are not in the plan or whose shard is not done."""
    done = group.done()
    for object_id in selection.objects or ():
        try:
            row = group.plan.row_of(object_id)
        except KeyError as error:
            raise UsageError(f"the dataset has no object {object_id!r}") from error
        if (shard := group.shard_of(row)) not in done:
            stage = "render" if group.spec.kind == "views" else "fit-objects"
            raise UsageError(
                f"{object_id} is in shard {shard}, which is not done: run fpipe {stage} {group.store.url}"
            )


def _choose(work: _Work, selection: Selection) -> tuple[RetryResult, dict[int, int]]:
    """Returns the selected failures, and how many objects of which shard are to be tried again."""
    result = RetryResult(work.stage, undone=len(work.group.shards_left()))
    sizes: Counter[int] = Counter()
    others: Counter[str] = Counter()
    for row, object_id, failure in work.group.each_failure():
        if not is_selected(object_id, failure, selection.kinds, selection.objects):
            others[failure.kind] += 1
            continue
        result.failing[object_id] = (failure.kind, failure.reason)
        if work.can_end_otherwise(row, failure):
            sizes[work.group.shard_of(row)] += 1
        else:
            result.waiting.append(object_id)
    result.other_kinds = dict(others)
    result.tried = sizes.total()
    return result, dict(sizes)


def _look_again(group: ShardedStore, result: RetryResult) -> None:
    """Sorts the selected objects into those that have a result now and those that have none."""
    chosen = set(result.failing)
    result.failing = {
        object_id: (failure.kind, failure.reason)
        for _, object_id, failure in group.each_failure()
        if object_id in chosen
    }
    result.mended = sorted(chosen - result.failing.keys())
