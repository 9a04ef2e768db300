"""The render stage: fixes the plan of a dataset, then renders its shards."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.compute import ComputeSession
from pipeline.config import ComputeConfig, PipelineConfig
from pipeline.executor import TaskResources
from pipeline.planned import existing_plan, planned, stored_form, write_config
from pipeline.progress import Progress
from pipeline.run import record_run
from pipeline.shard_spec import members, parse_shards
from pipeline.stages import StageResult, run_shards
from pipeline.writers import ONE_AT_A_TIME, require_writers
from render_jobs.config import RenderConfig
from render_jobs.job import render_shard
from render_jobs.poses import stored_key
from render_jobs.sources.base import ObjectEntry
from storage import layout
from storage.documents import content_hash
from storage.plan import Plan, PlanHeader, choose_objects_per_shard, write_plan
from storage.records import PlanRow
from storage.store import Store
from storage.summary import update_summary
from storage.views import ViewsStore

LOGGER = logging.getLogger(__name__)

COMPRESSED_BYTES_PER_PIXEL = 0.9
"""Stored bytes per RGBA pixel, from above: rendered cars take 0.35 with zstd-5, textured ones up to 0.9."""

RENDER_MARGIN_S = 1800.0
"""Seconds for what a render task does beside Blender: fetching meshes, writing the shard."""

PASS_BYTES_PER_PIXEL = {"depth": 2.5, "normals": 3.0}
"""Stored bytes per pixel of a pass, from above; see COMPRESSED_BYTES_PER_PIXEL."""


def views_bytes_per_object(config: PipelineConfig) -> int:
    """Returns the expected stored bytes of one object's views, from above."""
    return _stored_bytes(config, COMPRESSED_BYTES_PER_PIXEL)


def pass_bytes_per_object(config: PipelineConfig) -> dict[str, int]:
    """Returns the expected stored bytes of one object in each pass that is asked for, from above."""
    return {name: _stored_bytes(config, PASS_BYTES_PER_PIXEL[name]) for name in config.render.passes}


def shard_bytes_per_object(config: PipelineConfig) -> int:
    """Returns the expected stored bytes of one object in the largest of its shard files."""
    return max(views_bytes_per_object(config), *pass_bytes_per_object(config).values(), 0)


def _stored_bytes(config: PipelineConfig, bytes_per_pixel: float) -> int:
    render = config.render
    return int(render.views * render.height * render.width * bytes_per_pixel)


def make_plan(
    store: Store, config: PipelineConfig, workers: int, say: Callable[[str], None] = LOGGER.debug
) -> Plan:
    """Writes the plan and the config of a new dataset, or returns the existing plan when it is the same.

    Args:
        store: the dataset.
        config: resolved configuration.
        workers: tasks at a time, on all machines together, that shard sizes are planned for.
        say: is told that an existing plan is used.

    Raises:
        StoreMismatchError: the root holds another dataset; nothing was changed.
        UsageError, ConfigError: see planned.
    """
    plan = existing_plan(store, config)
    if plan is None:
        return write_new_plan(store, *planned(config), workers)
    header = plan.header
    say(
        f"render: the plan of {header.created} with {plan.n_objects} objects is used; "
        f"fpipe append {store.url} adds what has been added to its source since then"
    )
    return plan


def write_new_plan(
    store: Store, config: PipelineConfig, entries: Sequence[ObjectEntry], workers: int
) -> Plan:
    """Writes plan and config of a new dataset of these objects; the rest as for `make_plan`."""
    config, cameras = stored_form(config)
    if not store.settle().create:  # now that the input is known to be good
        LOGGER.warning("%s: %s", store.url, ONE_AT_A_TIME)
    render = config.content("render")
    header = PlanHeader(
        n_objects=len(entries),
        n_views=config.render.views,
        height=config.render.height,
        width=config.render.width,
        objects_per_views_shard=choose_objects_per_shard(
            len(entries), shard_bytes_per_object(config), workers
        ),
        heldout_fraction=config.render.heldout_fraction,
        seed=config.render.seed,
        source=config.source.spec(),
        render_config=render,
        render_config_hash=content_hash(render),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    rows = [
        PlanRow(row, entry.object_id, entry.class_name, config.source.kind, entry.location, entry.fingerprint)
        for row, entry in enumerate(entries)
    ]
    if cameras is not None and not store.exists(layout.PLAN_HEADER):  # before the plan that names it
        store.create(stored_key(str(config.render.cameras)), cameras)
    write_config(store, config)  # first: a plan without it would be one that nobody can ask for again
    plan = write_plan(store, header, rows)
    write_config(store, config)  # again, where the one that is there was of a plan that never was
    return plan


def render_resources(compute: ComputeConfig) -> TaskResources:
    """Returns what one render task needs."""
    gpus = compute.render_gpus if compute.render_gpus is not None else float(compute.limits.device != "cpu")
    return TaskResources(
        cpus=compute.render_cpus,
        gpus=gpus,
        memory_bytes=compute.render_memory_bytes,
        labels=compute.render_labels,
        custom=compute.render_resources,
    )


def render_task(compute: ComputeConfig, objects: int) -> TaskResources:
    """Returns what one render task of so many objects needs, with its deadline.

    Blender's process is bounded per object. The deadline is for the task around it, which may hang in a
    source or a file system.
    """
    limits = compute.limits
    by_limits_s = objects * (limits.startup_s + limits.deadline_s) + RENDER_MARGIN_S
    return replace(render_resources(compute), deadline_s=compute.render_deadline_s or by_limits_s)


def render(
    store: Store,
    config: PipelineConfig,
    shards: str,
    session: ComputeSession,
    progress: Progress,
    environment: dict[str, str],
) -> StageResult:
    """Plans the dataset if that has not been done, then renders the shards that are left.

    Args:
        store: the dataset.
        config: resolved configuration.
        shards: the text of `--shard`.
        session: computes.
        progress: is told.
        environment: for `--shard auto`.

    Raises:
        UsageError, StoreMismatchError: see make_plan.
        ShardsFailedError: some shards could not be done.
    """
    is_new = not store.exists(layout.PLAN_HEADER)  # else its shards are cut already
    needs = render_resources(config.compute)
    workers = session.planned_workers(needs, members(shards, environment)) if is_new else 1
    plan = make_plan(store, config, workers, progress.say)
    require_writers(store, config.compute, shards)
    views = ViewsStore.create_or_open(store, plan)
    chosen = views.with_objects(parse_shards(shards, views.n_shards, environment))
    done = views.done()
    if all(shard in done for shard in chosen):
        progress.say(f"render: all {len(chosen)} shards are done")
        n_failed = views.n_failed(chosen, done)
        left = len(views.shards_left(done))
        return StageResult("render", len(chosen), skipped=len(chosen), objects_failed=n_failed, left=left)
    planned_render = RenderConfig(**plan.header.render_config)
    record = config.model_copy(update={"render": planned_render}).model_dump(mode="json")
    with record_run(store, "render", record) as run:
        result = run_shards(
            "render",
            session.executor,
            render_shard,
            {
                "root_url": store.url,
                "limits": config.compute.limits.model_dump(mode="json"),
                "mesh_cache": config.compute.mesh_cache(),
            },
            chosen,
            views.sizes(chosen),
            done,
            render_task(config.compute, plan.header.objects_per_views_shard),
            progress,
            run,
            work_per_object=(plan.header.n_views, "views"),
        )
    update_summary(views)
    done = views.done()
    result.objects_failed, result.left = views.n_failed(chosen, done), len(views.shards_left(done))
    return result
