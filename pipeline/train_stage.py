"""The train-shared stage: trains the components that all objects share, once per dataset and config."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from pipeline.compute import ComputeSession, usable_cores
from pipeline.config import PipelineConfig
from pipeline.executor import Task, TaskResources
from pipeline.model.config import GeometryConfig
from pipeline.progress import Progress
from pipeline.run import record_run
from pipeline.shard_spec import shards_text
from pipeline.stages import StageResult
from pipeline.train.job import TrainResources, finished_version
from pipeline.train.one_process import told_by_process, train_in_process
from pipeline.writers import require_writers
from storage import layout
from storage.documents import dump_document, plain
from storage.errors import ConfigError, FpipeError, IntegrityError, UsageError
from storage.plan import read_plan
from storage.records import Status
from storage.shared import read_published_shared
from storage.store import Store
from storage.views import ViewsStore

OBJECT_RADIUS_WORLD = 0.5
"""Meshes have a bounding-box diagonal of 1 around the origin."""
RANGE_OBJECTS = 64
"""Objects whose cameras are looked at, spread over the dataset."""


def train_shared(
    store: Store,
    config: PipelineConfig,
    session: ComputeSession,
    progress: Progress,
    publish: bool = True,
) -> tuple[str, StageResult]:
    """Trains, or finds the result of the same training, and makes it the dataset's default.

    Args:
        store: the dataset, with all views rendered.
        config: resolved configuration.
        session: computes.
        progress: is told.
        publish: make the result the dataset's default.

    Returns:
        shared_version and what was done.

    Raises:
        UsageError: views are missing.
        FpipeError: the training failed.
    """
    plan = read_plan(store)
    require_writers(store, config.compute)
    train = config.content("train")
    version = finished_version(store, plan, train)
    if version is not None:
        progress.say(f"train-shared: done before, shared_version {version}")
        if publish:
            _publish(store, version, config)
        return version, StageResult("train-shared", 1, skipped=1)
    _require_views(store)
    _require_range(store, config.train.geometry)
    began = time.monotonic()
    with record_run(store, "train-shared", config.model_dump(mode="json")) as run:
        summary = _run(store, config, train, session, run.watched(progress))
        version = str(summary["shared_version"])
        run.summary = {**summary, "seconds": round(time.monotonic() - began, 3)}
    if publish:
        _publish(store, version, config)
    done = StageResult(
        "train-shared", 1, done=1, objects_ok=int(summary["objects"]), seconds=time.monotonic() - began
    )
    return version, done


def _publish(store: Store, version: str, config: PipelineConfig) -> None:
    """Makes a version the default of later fits, which also take their configuration from here."""
    content = plain(config.model_dump(mode="json", exclude={"compute"}))
    values = {"shared_version": version, "config": content}
    try:
        is_published = read_published_shared(store) == values
    except IntegrityError:
        is_published = False
    if not is_published:
        store.replace(layout.PUBLISHED_SHARED, dump_document(values, readable=True))


def _require_views(store: Store) -> None:
    """Refuses to choose regime-1 objects while it is unknown which objects render without failure."""
    views = ViewsStore.open(store)
    missing = views.shards_left()
    if missing:
        names = shards_text(missing, 20)
        raise UsageError(
            f"train-shared: {len(missing)} of {len(views.shards())} view shards are not rendered ({names}); "
            f"run fpipe render {store.url}"
        )


def _require_range(store: Store, geometry: GeometryConfig) -> None:
    """Refuses near and far distances that would cut objects off: the cameras stand elsewhere."""
    views = ViewsStore.open(store)
    rows = np.flatnonzero(views.status() == Status.OK)
    if not len(rows):
        return  # the training says so itself
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), RANGE_OBJECTS)).astype(int)]
    cameras = np.concatenate([views.values(int(row))["cam2world"] for row in some])
    distance = np.linalg.norm(cameras[:, :3, 3], axis=1)
    near = max(0.0, float(distance.min()) - OBJECT_RADIUS_WORLD)
    far = float(distance.max()) + OBJECT_RADIUS_WORLD
    if near < geometry.near or far > geometry.far:
        raise ConfigError(
            f"cameras stand {distance.min():.3g} to {distance.max():.3g} from the origin, so rays between"
            f" train.geometry.near={geometry.near:g} and far={geometry.far:g} would miss parts of objects:"
            f" add --set train.geometry.near={math.floor(near * 100) / 100:g}"
            f" --set train.geometry.far={math.ceil(far * 100) / 100:g}"
        )


def _run(
    store: Store, config: PipelineConfig, train: dict[str, Any], session: ComputeSession, progress: Progress
) -> dict[str, Any]:
    """Trains under Ray Train, or in one process of the local executor."""
    compute = config.compute
    cpus = compute.train_cpus or max(1, usable_cores() // compute.train_workers)
    resources = TrainResources(
        threads=cpus,
        device="cuda" if compute.train_gpus else "cpu",
        checkpoint_every_s=compute.checkpoint_every_s,
        checkpoints=compute.checkpoints,
        memory_bytes=compute.train_memory_bytes,
        gradient_checkpointing=compute.gradient_checkpointing,
        kernel=compute.kernel,
    )
    needs = TaskResources(
        cpus=cpus,
        gpus=compute.train_gpus,
        memory_bytes=compute.train_reserved_bytes,
        labels=compute.train_labels,
        custom=compute.train_resources,
    )
    executor = session.executor
    if executor.name == "ray":
        from pipeline.train.ray_train import train_with_ray

        return train_with_ray(
            store.url,
            train,
            config.train.total_steps,
            compute.train_workers,
            resources,
            needs,
            session.wait_for_nodes_s,
            session.shared_folder(store),
            compute.max_attempts,
            progress,
            compute.monitor.model_dump(mode="json"),
        )
    if compute.train_workers > 1:
        raise ConfigError("compute.train_workers: several ranks need compute.executor=ray")
    arguments = {
        "root_url": store.url,
        "train": train,
        "rank": 0,
        "world": 1,
        "resources": resources,
        "monitor": compute.monitor.model_dump(mode="json"),
    }
    with told_by_process(progress, config.train.total_steps) as connection:
        arguments["connection"] = connection
        outcomes = list(executor.run(train_in_process, [Task(0, arguments)], needs))
    for outcome in outcomes:
        if outcome.failure is not None:
            error = FpipeError(f"train-shared: {outcome.failure.message}")
            error.exit_code = outcome.failure.exit_code
            raise error
        assert outcome.result is not None
        return outcome.result
    raise AssertionError("the executor yielded no outcome")
