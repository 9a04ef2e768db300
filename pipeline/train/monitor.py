"""What a training shows while it runs, on rank 0: event file, W&B, pictures of fixed views.

It only looks: no random number is drawn and nothing is written to the trainer, so the result has the same
bits with and without it. What it cannot write it reports once, and the training goes on. Under the run
folder::

    tensorboard/   one event file
    pictures/      <step, 8 digits>.webp: the held-out views of the fixed objects, rendered, one below another
    monitor.json   which views those are, and the steps at which the training was resumed
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.train.event_file import EventFile, event_messages
from pipeline.train.fixed_views import Drawn, FixedObject, choose_fixed, draw, sheet
from pipeline.train.joint import CurvePoint, JointTrainer
from pipeline.train.monitor_config import MonitorConfig
from pipeline.train.wandb_log import WandbLog
from storage.errors import FpipeError
from storage.store import Store
from storage.views import ViewsStore

LOGGER = logging.getLogger(__name__)
LOSSES = ("latent", "rgb", "ae", "free", "tv")


class Sink(Protocol):
    """Where scalars and pictures go."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take values by tag."""

    def images(self, step: int, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        """Take pictures [H, W, 3] by tag."""

    def save(self) -> None:
        """Make everything so far last."""

    def close(self, failed: bool) -> None:
        """Save and end."""


class Monitor:
    """Watches one training; a context manager.

    Args:
        store: The dataset.
        folder: Key prefix of the training's run folder, whose last part is the training's hash.
        train: The train section of the config.
        rows: Rows of the trainer's objects, in its order.
        trainer: Is watched, from the step at which it is.
        config: What to record.

    Raises:
        EnvironmentProblem: A package that the config asks for is missing.
    """

    def __init__(
        self,
        store: Store,
        folder: str,
        train: Mapping[str, Any],
        rows: Sequence[int],
        trainer: JointTrainer,
        config: MonitorConfig,
    ) -> None:
        self._store, self._folder, self._trainer, self._config = store, folder, trainer, config
        self._sinks: list[Sink] = []
        if config.tensorboard:
            event_messages()  # a missing package is said before hours of training, not after
        if config.wandb:
            path = store.local_path(folder)
            run_id = folder.rpartition("/")[2]
            self._sinks.append(WandbLog(config.wandb, run_id, train, str(path) if path else None))
        self._fixed: list[FixedObject] = []
        self._due = picture_steps(trainer, config.pictures)
        self._window: list[CurvePoint] = []
        self._clock = time.perf_counter()
        self._is_broken = False
        self._guard(self._open, rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_broken = False  # each is closed, whatever failed before
        for sink in self._sinks:
            self._guard(sink.close, error is not None)

    def on_step(self, point: CurvePoint) -> None:
        """Record a step that was just done."""
        self._window.append(point)
        if self._window[0].phase != point.phase:
            self._window = [point]
        if len(self._window) >= self._config.scalars_every or point.step == self._trainer.total_steps:
            self._guard(self._record_scalars, point)
        if point.step in self._due:
            self._guard(self._record_pictures, point)

    def save(self) -> None:
        """Make everything so far last; called before a checkpoint is written."""
        for sink in self._sinks:
            self._guard(sink.save)

    def _open(self, rows: Sequence[int]) -> None:
        step = self._trainer.step_count
        if self._config.tensorboard:
            self._sinks.append(EventFile(self._store, f"{self._folder}/tensorboard", step))
        if self._due:
            self._fixed = choose_fixed(ViewsStore.open(self._store), rows, self._config.objects)
        key = f"{self._folder}/monitor.json"
        resumed = [before for before in _read_resumed(self._store, key) if before < step]
        document = {
            "version": 1,
            "resumed_at": [*resumed, step] if step else [],
            "objects": [
                {"object_id": one.object_id, "training_view": one.views[0], "heldout_view": one.views[1]}
                for one in self._fixed
                if len(one.views) > 1
            ],
        }
        self._store.replace(key, json.dumps(document, indent=1).encode())

    def _record_scalars(self, point: CurvePoint) -> None:
        points, self._window = self._window, []
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        losses = {
            name: float(np.mean([one.losses[name] for one in points if name in one.losses]))
            for name in point.losses
        }
        values = {f"loss_{point.phase}/{name}": value for name, value in losses.items()}
        if point.phase == "joint":  # both are means of squares over pixels in [0, 1]
            named = {"render": "rgb", "reconstruction": "ae"}
            values |= {
                f"psnr_batch/{name}": _psnr(losses[loss]) for name, loss in named.items() if loss in losses
            }
        values |= {f"learning_rate/{name}": rate for name, rate in self._trainer.rates.items()}
        values |= {f"gradient_norm/{name}": norm for name, norm in gradient_norms(self._trainer).items()}
        values["speed/steps_per_s"] = len(points) / max(seconds, 1e-9)
        for sink in self._sinks:
            sink.scalars(point.step, values)

    def _record_pictures(self, point: CurvePoint) -> None:
        drawn = draw(self._trainer, self._fixed, with_planes=point.phase != "autoencoder")
        figures = {
            f"psnr_fixed_training_view/{name}": float(np.mean([one.psnr_db[name] for one in drawn]))
            for name in drawn[0].psnr_db
        }
        pictures = _side_by_side(drawn)
        for sink in self._sinks:
            sink.scalars(point.step, figures)
            sink.images(point.step, pictures)
        data = sheet(drawn)
        if data is not None:
            self._store.replace(f"{self._folder}/pictures/{point.step:08d}.webp", data)

    def _guard(self, action: Callable[..., None], *arguments: Any) -> None:
        """Run an action unless one failed before: a full disk or a lost store must not cost the training."""
        if self._is_broken:
            return
        try:
            action(*arguments)
        except (FpipeError, OSError) as error:
            self._is_broken = True
            LOGGER.warning(
                "train-shared: no more curves and pictures are recorded, the training goes on: %s", error
            )


def picture_steps(trainer: JointTrainer, count: int) -> frozenset[int]:
    """Steps after which pictures are due: in the ratio of squares, over both plane phases and before them."""
    first, last = trainer.settings.autoencoder.steps, trainer.total_steps
    spans = ((0, first, (count + 1) // 2), (first, last, count))
    return frozenset(
        start + math.ceil((end - start) * (i / n) ** 2)
        for start, end, n in spans
        if end > start
        for i in range(1, n + 1)
    )


def gradient_norms(trainer: JointTrainer) -> dict[str, float]:
    """Euclidean norms of the last step's gradients of the shared parameters, where there are any."""
    groups: dict[str, list[torch.Tensor]] = {
        "base_planes": [trainer.base_planes],
        "renderer": list(trainer.renderer.parameters()),
        "autoencoder": list(trainer.autoencoder.parameters()),
    }
    norms = {}
    for name, params in groups.items():
        gradients = [param.grad for param in params if param.grad is not None]
        if gradients:
            norms[name] = float(torch.nn.utils.get_total_norm(gradients))
    return norms


def progress_figures(point: CurvePoint) -> dict[str, Any]:
    """What a line of progress says of a step: the phase and its losses; None for those of other phases."""
    return {"phase": point.phase} | dict.fromkeys(LOSSES) | point.losses


def _psnr(mean_square: float) -> float:
    return -10.0 * math.log10(max(mean_square, 1e-12))


def _side_by_side(drawn: Sequence[Drawn]) -> dict[str, NDArray[np.uint8]]:
    pictures = {}
    for one in drawn:
        parts = [part for part in (one.reconstruction, one.render, one.truth) if part is not None]
        pictures[f"training_view, reconstruction | render | truth/{one.object_id}"] = np.hstack(parts)
        if one.heldout is not None and one.heldout_truth is not None:
            held = np.hstack([one.heldout, one.heldout_truth])
            pictures[f"heldout_view, render | truth/{one.object_id}"] = held
    return pictures


def _read_resumed(store: Store, key: str) -> list[int]:
    try:
        found = json.loads(store.read(key))["resumed_at"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []
    return [int(step) for step in found]
