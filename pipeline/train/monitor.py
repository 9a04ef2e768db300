"""What a training shows while it runs, on rank 0: event file, W&B, pictures of fixed views.

It only looks: no random number is drawn and nothing is written to the trainer, so the result has the same
bits with and without it. What it cannot write it reports once, and the training goes on, with the others of
event file, W&B and stored pictures. Scalars are means over the steps since the last multiple of
`scalars_every`; a phase ends with a record, too. Under the run folder::

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
    """Where scalars and pictures go.

    Attributes:
        name: For messages.
    """

    name: str

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
        self._clock, self._steps_timed = time.perf_counter(), 0
        self._broken: set[str] = set()
        if config.tensorboard:
            self._guard("the event file", self._open_event_file)
        self._guard("the run folder", self._open_folder, rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sink in self._sinks:  # also those that failed before
            self._broken.discard(sink.name)
            self._guard(sink.name, sink.close, error is not None)

    def on_step(self, point: CurvePoint) -> None:
        """Record a step that was just done."""
        self._steps_timed += 1
        if point.step % self._config.scalars_every == 0 or self._trainer.phase != point.phase:
            self._record_scalars(point)
        if point.step in self._due and self._fixed:
            self._record_pictures(point)

    def save(self) -> None:
        """Make everything so far last; called before a checkpoint is written."""
        self._tell(lambda sink: sink.save())

    def _open_event_file(self) -> None:
        folder = f"{self._folder}/tensorboard"
        self._sinks.append(EventFile(self._store, folder, self._trainer.step_count))

    def _open_folder(self, rows: Sequence[int]) -> None:
        step = self._trainer.step_count
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
        points = self._since_last_record(point)
        now = time.perf_counter()
        steps_per_s = self._steps_timed / max(now - self._clock, 1e-9)
        self._clock, self._steps_timed = now, 0
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
        values["speed/steps_per_s"] = steps_per_s
        self._tell(lambda sink: sink.scalars(point.step, values))

    def _since_last_record(self, point: CurvePoint) -> list[CurvePoint]:
        """Points that a record at `point` stands for, the same ones if the training was resumed."""
        every = self._config.scalars_every
        last = (point.step - 1) // every * every
        return [one for one in self._trainer.curve[-every:] if one.step > last and one.phase == point.phase]

    def _record_pictures(self, point: CurvePoint) -> None:
        drawn = draw(self._trainer, self._fixed, with_planes=point.phase != "autoencoder")
        figures = {
            f"psnr_fixed_training_view/{name}": float(np.mean([one.psnr_db[name] for one in drawn]))
            for name in drawn[0].psnr_db
        }
        pictures = _side_by_side(drawn)
        self._tell(lambda sink: sink.scalars(point.step, figures))
        self._tell(lambda sink: sink.images(point.step, pictures))
        data = sheet(drawn)
        if data is not None:
            key = f"{self._folder}/pictures/{point.step:08d}.webp"
            self._guard("the run folder", self._store.replace, key, data)

    def _tell(self, what: Callable[[Sink], None]) -> None:
        for sink in self._sinks:
            self._guard(sink.name, what, sink)

    def _guard(self, where: str, action: Callable[..., None], *arguments: Any) -> None:
        """Run an action unless one failed there before: a full disk must not cost the training."""
        if where in self._broken:
            return
        try:
            action(*arguments)
        except (FpipeError, OSError) as error:
            self._broken.add(where)
            LOGGER.warning(
                "train-shared: no more curves or pictures go to %s, the training goes on: %s", where, error
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
