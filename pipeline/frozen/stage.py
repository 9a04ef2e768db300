"""Drives the comparison: chooses objects, measures steps, fits the blocks that are left, makes the table.

Nothing of the dataset's published state changes: results are written below `reports/<name>/`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.compute import ComputeSession
from pipeline.config import PipelineConfig
from pipeline.executor import Task, TaskResources
from pipeline.fit.resources import FitResources
from pipeline.frozen.design import BlockJob, Design, choose_rows, jobs_of
from pipeline.frozen.job import (
    fit_block_job,
    folder_key,
    load_results,
    measure_steps,
    steps_key,
)
from pipeline.frozen.table import ModeRow, mode_rows
from pipeline.progress import Progress
from pipeline.run import record_run
from pipeline.stages import ShardsFailedError, StageResult, run_shards
from pipeline.writers import require_writers
from storage.documents import differences
from storage.errors import StoreMismatchError, UsageError
from storage.layout import shared_key
from storage.planes import code_bytes
from storage.records import Status
from storage.shared import read_published_shared, read_shared_meta
from storage.store import Store
from storage.views import ViewsStore

STAGE = "compare-frozen"


@dataclass(frozen=True)
class Question:
    """What is asked for.

    Attributes:
        name: Of the comparison and its files.
        class_name: Class of the objects, None for the largest.
        objects: How many.
        block: Objects per block.
        seed: Of the choice of objects, halves and blocks.
        shared_version: None for the dataset's default.
    """

    name: str
    class_name: str | None
    objects: int
    block: int
    seed: int
    shared_version: str | None


def compare_frozen(
    store: Store,
    config: PipelineConfig,
    question: Question,
    session: ComputeSession,
    progress: Progress,
) -> tuple[Design, list[ModeRow], StageResult]:
    """Fit every block that is not done, in every mode, and make the table.

    Args:
        store: A dataset with rendered views and shared components.
        config: Resolved configuration; its fit section is used.
        question: What is asked for.
        session: Computes.
        progress: Is told.

    Returns:
        What was compared, its figures, and what was done.

    Raises:
        UsageError: There are no shared components, or too few objects or training views.
        StoreMismatchError: A comparison of this name has other settings.
        ShardsFailedError: Blocks failed; what is done stays, and the same call continues.
    """
    require_writers(store, config.compute)
    version = question.shared_version or _default_version(store)
    meta = read_shared_meta(store, version)
    _require_steps_and_base_planes(config, meta)
    design = _design(store, version, question)
    arguments: dict[str, Any] = {
        "root_url": store.url,
        "name": question.name,
        "shared_version": version,
        "fit_config": config.content("fit"),
        "design": design.to_json(),
    }
    _require_same(store, question.name, arguments)
    jobs = jobs_of(design)
    result = _run(store, config, question.name, arguments, jobs, session, progress)
    code = code_bytes(meta["f_mic"], meta["plane_resolution"], meta["n_base"], config.fit.dtype)
    rows = mode_rows(design, jobs, load_results(store, question.name, jobs), sum(code))
    result.objects_failed = sum(len(row.failures) for row in rows)
    for failure in (text for row in rows for text in row.failures):
        progress.say(f"{STAGE}: {failure}")
    return design, rows, result


def _default_version(store: Store) -> str:
    found = read_published_shared(store)
    if found is None:
        raise UsageError(f"no shared components in {store.url}; run fpipe train-shared {store.url}")
    return str(found["shared_version"])


def _require_steps_and_base_planes(config: PipelineConfig, meta: dict[str, Any]) -> None:
    if not meta["n_base"]:
        raise UsageError(
            f"{STAGE}: shared components {meta['shared_version']} have no base planes (micro only): there "
            "are no coefficients whose space could be compared"
        )
    if not config.fit.rgb_steps:
        raise UsageError(f"{STAGE}: fit.rgb_steps is 0, and a decoder is fine-tuned in RGB steps only")


def _design(store: Store, version: str, question: Question) -> Design:
    views = ViewsStore.open(store)
    trained = set(json.loads(store.read(shared_key(version, "regime1/ids.json"))))
    rendered = np.flatnonzero(views.status() == Status.OK).tolist()
    rows_by_class: dict[str, list[int]] = defaultdict(list)
    for row in rendered:
        if views.plan.rows[row].object_id not in trained:
            rows_by_class[views.plan.rows[row].class_name].append(row)
    class_name, rows = choose_rows(rows_by_class, question.class_name, question.objects, question.seed)
    return Design(class_name, rows, question.block, question.seed)


def _require_same(store: Store, name: str, arguments: dict[str, Any]) -> None:
    """Refuses settings that differ from those of results that are there."""
    asked = {key: value for key, value in arguments.items() if key not in ("root_url", "name")}
    key = f"{folder_key(name)}/settings.json"
    if store.create(key, json.dumps(asked, indent=1).encode()):
        return
    found = differences(json.loads(json.dumps(asked)), json.loads(store.read(key)))
    if found:
        raise StoreMismatchError(
            f"{STAGE}: {name} is there with other settings: {'; '.join(found[:8])}. Give the new ones "
            "another --name, or leave the settings as they were"
        )


def _run(
    store: Store,
    config: PipelineConfig,
    name: str,
    arguments: dict[str, Any],
    jobs: list[BlockJob],
    session: ComputeSession,
    progress: Progress,
) -> StageResult:
    there = set(store.list(folder_key(name)))
    done = frozenset(job.number for job in jobs if f"{job.name}.npz" in there)
    if len(done) == len(jobs):
        progress.say(f"{STAGE}: all {len(jobs)} blocks of {name} are done")
        return StageResult(STAGE, len(jobs), skipped=len(jobs))
    compute = config.compute
    resources = compute.fit_task()
    arguments = {
        **arguments,
        "resources": FitResources.of(compute.fit_cpus, compute.fit_gpus, compute.kernel),
    }
    sizes = {job.number: len(job.rows) for job in jobs}
    with record_run(store, STAGE, config.model_dump(mode="json")) as run:
        if not store.exists(steps_key(name)):
            progress.say(f"{STAGE}: measuring a step of every mode")
            run.event("steps", **_measure(session, arguments, resources))
        return run_shards(
            STAGE,
            session.executor,
            fit_block_job,
            arguments,
            [job.number for job in jobs],
            sizes,
            done,
            resources,
            progress,
            run,
        )


def _measure(session: ComputeSession, arguments: dict[str, Any], resources: TaskResources) -> dict[str, Any]:
    """Run `measure_steps` where the blocks run, while nothing else of this command does."""
    (outcome,) = session.executor.run(measure_steps, [Task(0, arguments)], resources)
    if outcome.failure is not None:
        result = StageResult(STAGE, shards=1)
        result.failed[0] = outcome.failure
        raise ShardsFailedError(result)
    assert outcome.result is not None
    return outcome.result
