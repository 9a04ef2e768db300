"""One rank's part of train-shared, from the dataset's views to stored shared components, without Ray.

The result depends on the dataset, the config, the seed, the number of ranks and the threads, not on where or
how often it was interrupted: budgets are steps, and a checkpoint continues with the same bits.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import distributed

from pipeline.model.autoencoder import Autoencoder, load_autoencoder, new_autoencoder
from pipeline.model.shared import RegimeOneCodes
from pipeline.train.batches import TrainingViews
from pipeline.train.checkpoints import Checkpoints
from pipeline.train.config import TrainConfig
from pipeline.train.joint import JointTrainer
from pipeline.train.monitor import Monitor, progress_figures
from pipeline.train.monitor_config import MonitorConfig
from storage import layout
from storage.documents import content_hash
from storage.errors import UsageError
from storage.plan import Plan, read_plan
from storage.records import Status
from storage.store import Store
from storage.views import ViewsStore

OnStep = Callable[[int, dict[str, Any]], None]


def train_hash(plan: Plan, train: dict[str, Any]) -> str:
    """Returns what identifies a training: the dataset and the config's content."""
    return content_hash({"plan": plan.plan_hash, "train": train})[:16]


def train_folder(plan: Plan, train: dict[str, Any]) -> str:
    """Returns the key prefix of a training's checkpoints and result."""
    return layout.run_folder("train-shared", train_hash(plan, train))


def finished_version(store: Store, plan: Plan, train: dict[str, Any]) -> str | None:
    """Returns the shared_version that this training led to, None when it has not ended."""
    try:
        result = json.loads(store.read(f"{train_folder(plan, train)}/result.json"))
    except FileNotFoundError:
        return None
    return str(result["shared_version"])


def choose_objects(
    plan: Plan, status: np.ndarray[Any, np.dtype[np.uint8]], count: int, seed: int
) -> list[int]:
    """Returns the rows of regime 1: a seeded sample of the rendered objects, stratified by class, ascending.

    Args:
        plan: the dataset.
        status: u8 [N] of the views.
        count: objects wanted; all rendered ones when there are fewer.
        seed: of the sample.
    """
    by_class: dict[str, list[int]] = {}
    for row in plan.rows:
        if status[row.row] == Status.OK:
            by_class.setdefault(row.class_name, []).append(row.row)
    total = sum(len(rows) for rows in by_class.values())
    count = min(count, total)
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen: list[int] = []
    taken = 0
    for position, name in enumerate(sorted(by_class)):
        rows = by_class[name]
        seen = sum(len(by_class[other]) for other in sorted(by_class)[: position + 1])
        share = round(count * seen / total) - taken  # cumulative rounding: shares add up to count
        chosen += sorted(generator.choice(rows, size=share, replace=False).tolist())
        taken += share
    return sorted(chosen)


def train_rank(
    root_url: str,
    train: dict[str, Any],
    rank: int,
    world: int,
    threads: int,
    device: str,
    checkpoint_every_s: float,
    on_step: OnStep | None = None,
    monitor: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Runs one rank's part; rank 0 stores the result.

    Args:
        root_url: the dataset.
        train: the train section of the config, as plain values.
        rank: this rank; torch.distributed is initialised by the caller when world > 1.
        world: number of ranks.
        threads: torch threads on the CPU.
        device: "cpu" or "cuda".
        checkpoint_every_s: seconds between two checkpoints; does not change the result.
        on_step: called on rank 0 with the step, its phase and its losses.
        monitor: what rank 0 records on the way (MonitorConfig), None for nothing; does not change the result.

    Returns:
        A summary with `shared_version`, the same on all ranks.

    Raises:
        UsageError: views are missing, or there are fewer objects than ranks.
        FloatingPointError: the loss is not finite any more.
    """
    torch.set_num_threads(threads)
    store, config = Store(root_url), TrainConfig.model_validate(train)
    plan = read_plan(store)
    folder = train_folder(plan, train)
    rows = choose_objects(plan, ViewsStore.open(store).status(), config.objects, config.seed)
    if len(rows) < world:
        raise UsageError(f"train-shared: {len(rows)} rendered objects are too few for {world} ranks")
    objects = read_training_views(store, plan, rows[rank::world])
    trainer = build_trainer(objects, config, device)
    checkpoints = Checkpoints(store, folder, rank)
    _resume(trainer, checkpoints, world)
    with contextlib.ExitStack() as watched:
        watcher = None
        if rank == 0 and monitor is not None:
            watcher = Monitor(
                store, folder, train, rows[::world], trainer, MonitorConfig.model_validate(monitor)
            )
            watched.enter_context(watcher)
        _train(trainer, checkpoints, rank, world, checkpoint_every_s, on_step, watcher)
    codes = _gather(trainer.codes(), world)
    summary: dict[str, Any] = {"steps": trainer.step_count, "objects": len(rows)}
    if rank == 0:
        info = {
            "train_config": train,
            "train_hash": train_hash(plan, train),
            "plan_hash": plan.plan_hash,
            "curve": [
                {"step": point.step, "phase": point.phase, "losses": point.losses} for point in trainer.curve
            ],
        }
        version = trainer.shared_components().save(store, codes, info)
        summary["shared_version"] = version
        store.replace(f"{folder}/result.json", json.dumps(summary).encode())
    return summary


def build_trainer(objects: Sequence[TrainingViews], config: TrainConfig, device: str) -> JointTrainer:
    """Returns the trainer that a config describes, at step 0.

    Raises:
        EnvironmentProblem: the pretrained autoencoder cannot be loaded.
    """
    return JointTrainer(objects, _autoencoder(config), config.settings(), config.seed, device)


def read_training_views(store: Store, plan: Plan, rows: Sequence[int]) -> list[TrainingViews]:
    """Reads the training views of objects; held-out views are dropped at once."""
    views = ViewsStore.open(store)
    objects = []
    for row in rows:
        found = views.read(row)
        objects.append(
            TrainingViews.of(
                plan.rows[row].object_id,
                found.images,
                found.cam2world,
                found.intrinsics,
                found.heldout,
                found.has_alpha,
            )
        )
    return objects


def _autoencoder(config: TrainConfig) -> Autoencoder:
    if config.autoencoder.pretrained is not None:
        return load_autoencoder(config.autoencoder.pretrained)
    ae = config.autoencoder
    return new_autoencoder(ae.size, seed=config.seed, latent_channels=ae.latent_channels, factor=ae.factor)


def _resume(trainer: JointTrainer, checkpoints: Checkpoints, world: int) -> None:
    """Continues at the newest step that every rank has."""
    steps = checkpoints.steps()
    if world > 1:
        everyone: list[list[int]] = [[] for _ in range(world)]
        distributed.all_gather_object(everyone, steps)
        steps = sorted(set.intersection(*(set(own) for own in everyone)))
    if steps:
        trainer.load_state_dict(checkpoints.load(steps[-1]))


def _train(
    trainer: JointTrainer,
    checkpoints: Checkpoints,
    rank: int,
    world: int,
    every_s: float,
    on_step: OnStep | None,
    watcher: Monitor | None,
) -> None:
    saved = time.monotonic()
    while trainer.phase != "done":
        point = trainer.step()
        if on_step is not None and rank == 0:
            on_step(point.step, progress_figures(point))
        if watcher is not None:
            watcher.on_step(point)
        if _is_due(time.monotonic() - saved >= every_s, world):
            if watcher is not None:
                watcher.save()
            checkpoints.save(trainer.step_count, trainer.state_dict())
            saved = time.monotonic()


def _is_due(due: bool, world: int) -> bool:
    """Lets rank 0 decide, so that all ranks save the same steps."""
    if world == 1:
        return due
    flag = torch.tensor([float(due)])
    distributed.broadcast(flag, 0)
    return bool(flag.item())


def _gather(codes: RegimeOneCodes, world: int) -> RegimeOneCodes:
    """Joins the codes of all ranks."""
    if world == 1:
        return codes
    parts: list[Any] = [None] * world
    distributed.all_gather_object(parts, codes)
    return RegimeOneCodes.merge(parts)
