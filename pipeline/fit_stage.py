"""The fit-objects stage: fits every object to frozen shared components, shard by shard."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence

from pipeline.compute import ComputeSession
from pipeline.config import PipelineConfig
from pipeline.fit.job import fit_shard
from pipeline.fit.resources import FitResources
from pipeline.progress import Progress
from pipeline.run import record_run
from pipeline.shard_spec import members, parse_shards, shards_text
from pipeline.stages import StageResult, run_shards
from pipeline.statistics_stage import store_statistics
from pipeline.writers import require_writers
from storage import layout
from storage.documents import content_hash
from storage.errors import IntegrityError, UsageError
from storage.plan import Plan, choose_objects_per_shard, read_plan
from storage.planes import FitHeader, PlanesStore, code_bytes, publish_fit, published_fit
from storage.shared import read_published_shared, read_shared_meta
from storage.store import Store
from storage.summary import update_summary
from storage.views import ViewsStore


def fit_header(
    store: Store, plan: Plan, config: PipelineConfig, name: str, shared_version: str, workers: int
) -> FitHeader:
    """Returns the header of a fit: what its arrays look like and how they are cut into shards.

    Args:
        store: The dataset.
        plan: Its plan.
        config: Resolved configuration.
        name: Of the fit.
        shared_version: Of the shared components.
        workers: Fit tasks at a time, on all machines together.
    """
    meta = read_shared_meta(store, shared_version)
    fit = config.content("fit")
    resolution, f_mic = int(meta["plane_resolution"]), int(meta["f_mic"])
    micro_bytes, _ = code_bytes(f_mic, resolution, int(meta["n_base"]), config.fit.dtype)
    object_bytes = micro_bytes + 4096  # room for its part of the sidecar
    return FitHeader(
        name=name,
        shared_version=shared_version,
        fit_config=fit,
        fit_config_hash=content_hash(fit),
        n_objects=plan.n_rows,
        f_mic=f_mic,
        resolution=resolution,
        n_base=int(meta["n_base"]),
        dtype=config.fit.dtype,
        plane_order=tuple(meta["plane_order"]),
        objects_per_shard=choose_objects_per_shard(
            plan.n_objects, object_bytes, workers, at_least=config.least_fit_objects()
        ),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def fit_objects(
    store: Store,
    config: PipelineConfig,
    name: str,
    shared_version: str | None,
    shards: str,
    session: ComputeSession,
    progress: Progress,
    environment: Mapping[str, str],
    publish: bool = True,
) -> StageResult:
    """Fits the objects of the shards that are left.

    Args:
        store: the dataset.
        config: resolved configuration.
        name: of the fit; several stand side by side.
        shared_version: which shared components, None for the dataset's default.
        shards: the text of `--shard`.
        session: computes.
        progress: is told.
        environment: for `--shard auto`.
        publish: make the fit the one that readers open, once it is complete or while there is no other.

    Raises:
        UsageError: there are no shared components, or views of a chosen shard are not rendered.
        StoreMismatchError: a fit of this name has another config or shared_version; nothing was changed.
        ShardsFailedError: some shards could not be done.
    """
    plan = read_plan(store)
    require_writers(store, config.compute, shards)
    version = shared_version or _default_version(store)
    is_new = not store.exists(layout.fit_header(name))  # else its shards are cut already
    workers = (
        session.planned_workers(config.compute.fit_task(), members(shards, environment)) if is_new else 1
    )
    header = fit_header(store, plan, config, name, version, workers)
    planes = PlanesStore.create_or_open(store, plan, header)
    chosen = planes.with_objects(parse_shards(shards, planes.n_shards, environment))
    done = planes.done()
    if all(shard in done for shard in chosen):
        progress.say(f"fit-objects: all {len(chosen)} shards of fit {name} are done")
        store_statistics(planes, progress)
        if publish:
            _publish_when_complete(store, planes, name)
        n_failed = planes.n_failed(chosen, done)
        left = len(planes.shards_left(done))
        return StageResult(
            "fit-objects", len(chosen), skipped=len(chosen), objects_failed=n_failed, left=left
        )
    _require_views(store, planes, [shard for shard in chosen if shard not in done])
    compute = config.compute
    with record_run(store, "fit-objects", config.model_dump(mode="json"), fit=name) as run:
        result = run_shards(
            "fit-objects",
            session.executor,
            fit_shard,
            {
                "root_url": store.url,
                "fit_name": name,
                "resources": FitResources.of(compute.fit_cpus, compute.fit_gpus, compute.kernel),
            },
            chosen,
            planes.sizes(chosen),
            done,
            compute.fit_task(),
            progress,
            run,
        )
    update_summary(planes)
    store_statistics(planes, progress)
    if publish:
        _publish_when_complete(store, planes, name)
    done = planes.done()
    result.objects_failed, result.left = planes.n_failed(chosen, done), len(planes.shards_left(done))
    return result


def _default_version(store: Store) -> str:
    found = read_published_shared(store)
    if found is None:
        raise UsageError(f"no shared components in {store.url}; run fpipe train-shared {store.url}")
    return str(found["shared_version"])


def _require_views(store: Store, planes: PlanesStore, shards: Sequence[int]) -> None:
    """Refuses fit shards whose views are not done, naming the view shards."""
    views = ViewsStore.open(store)
    done = views.done()
    needed: set[int] = set()
    for rows in (part for shard in shards for part in planes.object_ranges(shard)):
        needed |= set(range(views.shard_of(rows[0]), views.shard_of(rows[-1]) + 1))
    missing = sorted(needed - done)
    if missing:
        names = shards_text(missing)
        raise UsageError(
            f"fit-objects: views of shards {names} are not rendered; "
            f"run fpipe render {store.url} --shard {names}"
        )


def _publish_when_complete(store: Store, planes: PlanesStore, name: str) -> None:
    """Makes the fit the one that readers open, once it is complete or while there is no other."""
    try:
        current: str | None = published_fit(store)
    except (UsageError, IntegrityError):
        current = None
    complete = not planes.shards_left()
    if current != name and (complete or current is None):
        publish_fit(store, name)
