"""One rank's part of train-shared, from the dataset's views to stored shared components, without Ray.

The result depends on the dataset, the config, the seed, the number of ranks and the threads, not on where or
how often it was interrupted: budgets are steps, and a checkpoint continues with the same bits.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import distributed

from pipeline.model.autoencoder import Autoencoder, load_autoencoder, new_autoencoder
from pipeline.model.identity import IdentityAutoencoder
from pipeline.model.kernel_choice import Kernel
from pipeline.model.shared import RegimeOneCodes, SharedComponents
from pipeline.train.autoencoder import check_sizes
from pipeline.train.checkpoints import Checkpoints, require_finite
from pipeline.train.config import TrainConfig
from pipeline.train.curve_file import phase_totals, write_curve
from pipeline.train.joint import JointTrainer
from pipeline.train.monitor import Monitor, progress_figures
from pipeline.train.monitor_config import MonitorConfig
from pipeline.train.ranks import gather_from_all
from pipeline.train.ray_bank import EmptyHullError, build_usable_ray_bank
from pipeline.train.scratch_arrays import ScratchArrays
from pipeline.train.training_views import AllViews, TrainingViews
from storage import layout
from storage.documents import content_hash
from storage.errors import FpipeError, StoreMismatchError, UsageError
from storage.plan import Plan, read_plan
from storage.records import Status
from storage.store import Store
from storage.views import ViewsStore

LOGGER = logging.getLogger(__name__)

OnStep = Callable[[int, dict[str, Any]], None]

_RATE_SETTINGS = {
    "autoencoder": "train.autoencoder.learning_rate",
    "warmup": "train.rates",
    "joint": "train.rates, or train.joint.lr_scale and train.rates.joint",
}
"""Settings of the learning rates, by phase."""

CHECKPOINT_SHARE = 0.1
"""Of the training's time that writing checkpoints may take: large ones are written less often."""


class TrainingDivergedError(FpipeError, FloatingPointError):
    """The loss or a parameter is not finite any more; says where, and what is left to go on from."""


@dataclass(frozen=True)
class TrainResources:
    """With what one rank trains; nothing here changes the result.

    Attributes:
        threads: Torch threads on the CPU.
        device: "cpu" or "cuda".
        checkpoint_every_s: Seconds between two checkpoints.
        checkpoints: How many are kept.
        memory_bytes: Memory for views, rays and latents, None for any amount; what is beyond lies in files.
        gradient_checkpointing: Whether the autoencoder's activations are computed twice instead of kept.
        kernel: What decodes points, see `pipeline.model.kernel_choice`.
    """

    threads: int
    device: str = "cpu"
    checkpoint_every_s: float = 20.0
    checkpoints: int = 2
    memory_bytes: int | None = None
    gradient_checkpointing: bool = False
    kernel: Kernel = "torch"


def train_hash(plan: Plan, train: dict[str, Any]) -> str:
    """Returns what identifies a training: the dataset with its present objects, and the config's content."""
    return _hash_of(plan.state_hash, train)


def _hash_of(plan_state: str, train: dict[str, Any]) -> str:
    return content_hash({"plan": plan_state, "train": train})[:16]


def train_folder(plan: Plan, train: dict[str, Any]) -> str:
    """Returns the key prefix of a training's checkpoints and result."""
    return layout.run_folder("train-shared", train_hash(plan, train))


def finished_version(store: Store, plan: Plan, train: dict[str, Any]) -> str | None:
    """Returns the shared_version that this training led to, None when it has not ended.

    One that ended before objects were appended counts: they are fitted to what it led to.
    """
    for state in plan.states():
        key = f"{layout.run_folder('train-shared', _hash_of(state, train))}/result.json"
        try:
            return str(json.loads(store.read(key))["shared_version"])
        except FileNotFoundError:
            continue
    return None


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
    resources: TrainResources,
    on_step: OnStep | None = None,
    monitor: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Runs one rank's part; rank 0 stores the result.

    Args:
        root_url: the dataset.
        train: the train section of the config, as plain values.
        rank: this rank; torch.distributed is initialised by the caller when world > 1.
        world: number of ranks.
        resources: what the rank may use.
        on_step: called on rank 0 with the step, its phase and its losses.
        monitor: what rank 0 records on the way (MonitorConfig), None for nothing; does not change the result.

    Returns:
        A summary, on rank 0 with `shared_version`.

    Raises:
        UsageError: views are missing, or there are fewer objects than ranks.
        EmptyHullError: a rank is left with no object, see `build_trainer`.
        StoreMismatchError: it was interrupted with another number of ranks, or objects.
        TrainingDivergedError: the loss or a parameter is not finite any more.
    """
    cpu_began = time.process_time()
    torch.set_num_threads(resources.threads)
    store, config = Store(root_url), TrainConfig.model_validate(train)
    plan = read_plan(store)
    folder = train_folder(plan, train)
    rows = choose_objects(plan, ViewsStore.open(store).status(), config.objects, config.seed)
    if len(rows) < world:
        raise UsageError(f"train-shared: {len(rows)} rendered objects are too few for {world} ranks")
    checkpoints = Checkpoints(store, folder, rank, resources.checkpoints, world)
    checkpoints.require_same_world()
    arrays = ScratchArrays(resources.memory_bytes)
    objects = read_training_views(store, plan, rows[rank::world], arrays)
    trainer = build_trainer(objects, config, resources.device, arrays)
    if resources.gradient_checkpointing:
        trainer.autoencoder.enable_gradient_checkpointing()
    trainer.renderer.kernel = resources.kernel
    resumed = _resume(trainer, checkpoints)
    with contextlib.ExitStack() as watched:
        watcher = None
        if rank == 0 and monitor is not None:
            kept = {views.object_id for views in trainer.objects}
            own = [row for row in rows[::world] if plan.rows[row].object_id in kept]
            watcher = Monitor(store, folder, train, own, trainer, MonitorConfig.model_validate(monitor))
            watched.enter_context(watcher)
        _train(trainer, checkpoints, rank, world, resources.checkpoint_every_s, on_step, watcher)
    codes = _gather(trainer.codes(), rank, world)
    summary: dict[str, Any] = {
        "steps": trainer.step_count,
        "objects": trainer.n_objects,
        "resumed_after_step": resumed,
        "scratch_file_bytes": arrays.file_bytes,
        "cpu_seconds": round(time.process_time() - cpu_began, 3),  # of this rank since it was last resumed
    }
    if rank == 0:
        assert codes is not None
        info = {
            "train_config": train,
            "train_hash": train_hash(plan, train),
            "plan_hash": plan.plan_hash,
            "seconds": round(sum(point.seconds for point in trainer.curve), 3),
            "steps": trainer.step_count,
            "phases": phase_totals(trainer.curve),
        }
        shared = trainer.shared_components(codes)
        with _named_divergence("joint", checkpoints):
            require_finite(trainer.step_count, _published(shared, codes))
        write_curve(store, folder, trainer.curve)
        version = shared.save(store, codes, info)
        summary["shared_version"] = version
        store.replace(f"{folder}/result.json", json.dumps(summary).encode())
    return summary


@contextlib.contextmanager
def _named_divergence(phase: str, checkpoints: Checkpoints) -> Iterator[None]:
    """Turns a number that is not finite into an error that says what to do, and what is left."""
    try:
        yield
    except FloatingPointError as error:
        left = "There is no checkpoint yet"
        if checkpoints.newest is not None:
            step, key = checkpoints.newest
            left = (
                f"The last good checkpoint is that of step {step}, {key}: the same command goes on from it, "
                "which helps where the machine was at fault"
            )
        lower = f"Lower {_RATE_SETTINGS[phase]}: that is another training, from its first step on"
        raise TrainingDivergedError(f"{error}. {lower}. {left}") from error


def _published(shared: SharedComponents, codes: RegimeOneCodes) -> dict[str, Any]:
    """Returns all numbers that the shared components consist of."""
    return {
        "autoencoder": shared.autoencoder.state_dict(),
        "base_planes": shared.base_planes,
        "renderer": shared.renderer.state_dict(),
        "background_latent": shared.background_latent,
        "micro": None if codes.micro is None else torch.from_numpy(codes.micro),
        "coefficients": torch.from_numpy(codes.coefficients),
    }


def build_trainer(
    objects: Sequence[TrainingViews], config: TrainConfig, device: str, arrays: ScratchArrays | None = None
) -> JointTrainer:
    """Returns the trainer that a config describes, at step 0; all ranks wait here for each other.

    Objects without rays are left out, with a warning that names those of all ranks.

    Raises:
        EnvironmentProblem: the pretrained autoencoder cannot be loaded.
        ConfigError: the views do not fit the autoencoder.
        EmptyHullError: a rank has no object left; raised on all ranks alike.
    """
    autoencoder, settings = _autoencoder(config), config.settings()
    arrays = arrays or ScratchArrays()
    check_sizes(autoencoder.factor, AllViews(objects), settings.autoencoder)
    bank, usable = build_usable_ray_bank(
        objects, autoencoder.factor, settings.geometry, settings.dilate, torch.device(device), arrays
    )
    _say_left_out([views.object_id for i, views in enumerate(objects) if i not in usable], len(usable))
    kept = [objects[i] for i in usable]
    return JointTrainer(kept, autoencoder, settings, config.seed, device, arrays, bank)


def _say_left_out(empty: list[str], n_kept: int) -> None:
    """Warns of objects without rays on any rank; refuses on all ranks where one is left with none."""
    everyone = gather_from_all((n_kept, empty))
    names = sorted(object_id for _, own in everyone for object_id in own)
    if not all(n for n, _ in everyone):
        raise EmptyHullError(names)
    if names:
        LOGGER.warning("train-shared: objects left out (%d): %s", len(names), EmptyHullError(names))


def read_training_views(
    store: Store, plan: Plan, rows: Sequence[int], arrays: ScratchArrays | None = None
) -> list[TrainingViews]:
    """Reads the training views of objects, one object at a time; held-out views are dropped at once.

    Args:
        store: the dataset.
        plan: its plan.
        rows: the objects.
        arrays: where the views are kept; None for memory.
    """
    views, header = ViewsStore.open(store), plan.header
    shape = (len(rows) * header.n_views, header.height, header.width, 4)
    table, _ = (arrays or ScratchArrays()).empty("training views", shape, np.uint8)
    objects, end = [], 0
    for row in rows:
        v = views.read(row)
        own = TrainingViews.of(
            plan.rows[row].object_id, v.images, v.cam2world, v.intrinsics, v.heldout, v.has_alpha
        )
        place = table[end : end + len(own.rgba)]
        place[:] = own.rgba
        end += len(place)
        objects.append(replace(own, rgba=place))
    return objects


def _autoencoder(config: TrainConfig) -> Autoencoder:
    if config.autoencoder.pretrained is not None:
        return load_autoencoder(config.autoencoder.pretrained)
    ae = config.autoencoder
    if ae.size == "identity":
        return IdentityAutoencoder()
    return new_autoencoder(ae.size, seed=config.seed, latent_channels=ae.latent_channels, factor=ae.factor)


def _resume(trainer: JointTrainer, checkpoints: Checkpoints) -> int:
    """Continues at the newest step whose checkpoint every rank has whole; returns it, or 0.

    Raises:
        StoreMismatchError: a checkpoint is of other objects; on all ranks alike.
    """
    for step in reversed(_common(checkpoints.steps())):
        state = checkpoints.load(step)
        if step in _common([] if state is None else [step]):
            assert state is not None
            problem = None
            try:
                trainer.load_state_dict(state)
            except StoreMismatchError as error:
                problem = f"{error}: views were rendered since, or compute.train_workers was another"
            problems = [said for said in gather_from_all(problem) if said]
            if problems:
                raise StoreMismatchError(
                    f"train-shared cannot be continued after step {step}: {problems[0]}. Start over: delete "
                    f"{checkpoints.everything}"
                )
            checkpoints.go_on_from(step)
            LOGGER.info("continues after step %d of %d", step, trainer.total_steps)
            return step
    return 0


def _common(steps: list[int]) -> list[int]:
    """Returns the steps that all ranks name, ascending."""
    return sorted(set.intersection(*(set(own) for own in gather_from_all(steps))))


def _train(
    trainer: JointTrainer,
    checkpoints: Checkpoints,
    rank: int,
    world: int,
    every_s: float,
    on_step: OnStep | None,
    watcher: Monitor | None,
) -> None:
    saved, took = time.monotonic(), 0.0
    while trainer.phase != "done":
        with _named_divergence(trainer.phase, checkpoints):
            point = trainer.step()
        if on_step is not None and rank == 0:
            on_step(point.step, progress_figures(point))
        if watcher is not None:
            watcher.on_step(point)
        began = time.monotonic()
        if _is_due(began - saved >= max(every_s, took / CHECKPOINT_SHARE), world):
            if watcher is not None:
                watcher.save()
            with _named_divergence(point.phase, checkpoints):
                checkpoints.save(trainer.step_count, trainer.state_dict())
            saved = time.monotonic()
            took = saved - began


def _is_due(due: bool, world: int) -> bool:
    """Lets rank 0 decide, so that all ranks save the same steps."""
    if world == 1:
        return due
    flag = torch.tensor([float(due)])
    distributed.broadcast(flag, 0)
    return bool(flag.item())


def _gather(codes: RegimeOneCodes, rank: int, world: int) -> RegimeOneCodes | None:
    """Joins the codes of all ranks on rank 0; None elsewhere."""
    if world == 1:
        return codes
    parts: list[Any] | None = [None] * world if rank == 0 else None
    distributed.gather_object(codes, parts)
    return RegimeOneCodes.merge(parts) if parts is not None else None
