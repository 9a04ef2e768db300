"""One shard of the render stage, end to end: plan → source → Blender → shard file.

A shard is computed by one task and committed once. Whatever goes wrong with an object is recorded with that
object; only faults of the environment or the store end the task.
"""

from __future__ import annotations

import errno
import logging
import secrets
import shlex
import shutil
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt

from render_jobs.config import ExecutionLimits, RenderConfig
from render_jobs.mesh_file import MeshError
from render_jobs.outputs import ShardOutputs
from render_jobs.poses import Rig, object_cameras, stored_rig
from render_jobs.sources.base import Source, ViewsSource, make_source
from render_jobs.sources.files import UNREACHABLE_ERRNO
from render_jobs.sources.mesh_cache import MeshCache
from render_jobs.worker import BlenderWorker, RenderFailure
from storage.errors import EnvironmentProblem, FpipeError, TransientError
from storage.plan import Plan
from storage.records import Failure, ObjectViews, PlanRow
from storage.redaction import redact
from storage.store import Store
from storage.views import ViewsStore

Passes = dict[str, npt.NDArray[Any]]

LOGGER = logging.getLogger(__name__)

T = TypeVar("T")

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def render_shard(
    root_url: str,
    shard: int,
    attempt: str,
    limits: dict[str, Any] | None = None,
    mesh_cache: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Renders one shard and commits it; a shard that is done is skipped, a committed one only published.

    Args:
        root_url: The dataset.
        shard: Shard number of `views.zarr`.
        attempt: Names this attempt; a random part is added, so that a repeated call is another attempt.
        limits: Values of `ExecutionLimits`.
        mesh_cache: Arguments of `MeshCache`; None for no cache.

    Returns:
        shard, attempt, n_ok, n_failed, skipped, and seconds, render_s, n_bytes when it was rendered now.

    Raises:
        UsageError: No dataset, or no such shard.
        EnvironmentProblem: Blender does not start, or there is no temporary folder.
        TransientError: The store or the source kept failing; worth another attempt.
    """
    store = Store(root_url)
    views = ViewsStore.open(store)
    rows = views.object_rows(shard)
    if views.is_done(shard) or views.publish_committed(shard):
        return {
            "shard": shard,
            "attempt": views.sidecar(shard).attempt,
            "skipped": True,
            **views.counts(shard),
        }
    started = time.monotonic()
    attempt = f"{attempt}-{secrets.token_hex(4)}"
    renderer = ObjectRenderer.of_plan(root_url, views.plan, rows[0], mesh_cache)
    with (
        ShardOutputs(views, shard, attempt) as outputs,
        BlenderWorker(ExecutionLimits(**(limits or {}))) as worker,
    ):
        render_s = sum(renderer.add(outputs, worker, views.plan.rows[row]) for row in rows)
        seconds = time.monotonic() - started
        info = {"seconds": seconds, "render_s": render_s, "host": socket.gethostname()}
        commit = outputs.commit(info)
    summary = {"shard": shard, "attempt": commit.attempt, "skipped": False, **views.counts(shard)}
    return {**summary, "seconds": seconds, "render_s": render_s, "n_bytes": commit.n_bytes}


class ObjectRenderer:
    """Renders single objects of one plan.

    Args:
        root_url: The dataset: for its camera file, and for the command that reproduces a failure.
        source: Where the meshes, or the views themselves, come from.
        config: What the images look like.
    """

    def __init__(self, root_url: str, source: Source | ViewsSource, config: RenderConfig) -> None:
        self._root_url = root_url
        self._source = source
        self._config = config

    @classmethod
    def of_plan(
        cls, root_url: str, plan: Plan, row: int, mesh_cache: dict[str, Any] | None = None
    ) -> ObjectRenderer:
        """Makes the renderer of a row, and of all rows of its shard; see `render_shard` for the cache."""
        source = make_source(plan.source_of(row), MeshCache(**mesh_cache) if mesh_cache else None)
        return cls(root_url, source, RenderConfig(**plan.header.render_config))

    @cached_property
    def _rig(self) -> Rig | None:
        return stored_rig(Store(self._root_url), self._config)

    def add(self, outputs: ShardOutputs, worker: BlenderWorker, row: PlanRow) -> float:
        """Renders one object into a shard, or records why it failed; returns the seconds spent in Blender."""
        try:
            views, passes, info = self.render(worker, row)
            _add(outputs, row.row, views, passes, info)
        except RenderFailure as error:
            failure = replace(
                error.failure,
                reason=redact(error.failure.reason),
                detail=redact(error.failure.detail),
                repro=repro_command(self._root_url, row.object_id),
            )
            LOGGER.warning("%s failed: %s: %s", row.object_id, failure.kind, failure.reason)
            outputs.fail(row.row, failure)
            return 0.0
        LOGGER.debug("%s: %d views in %.2f s", row.object_id, len(views.images), info["render_s"])
        return float(info["render_s"])

    def render(self, worker: BlenderWorker, row: PlanRow) -> tuple[ObjectViews, Passes, dict[str, Any]]:
        """Renders or imports one object; the result depends on its input, its id and the configuration only.

        Returns:
            The views, the passes that the configuration asks for, and what is worth recording.

        Raises:
            RenderFailure: The object has no result.
            EnvironmentProblem, TransientError: See `render_shard`.
        """
        source = self._source
        if isinstance(source, ViewsSource):
            return self._load(source, row)
        cam2world, matrices, heldout = object_cameras(self._config, row.object_id, self._rig)
        folder = _mesh_folder(worker.folder)
        try:
            started = time.monotonic()
            mesh = _from_source(lambda: source.fetch(row, folder))
            fetch_s = time.monotonic() - started
            images, passes, mesh_to_world, info = worker.render(mesh, cam2world, matrices, self._config)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        views = ObjectViews(images, cam2world, matrices, heldout, mesh_to_world)
        return views, passes, {**info, **mesh.info, "fetch_s": fetch_s}

    def _load(self, source: ViewsSource, row: PlanRow) -> tuple[ObjectViews, Passes, dict[str, Any]]:
        """Imports one object's views; no Blender is started for that."""
        started = time.monotonic()
        views, info = _from_source(lambda: source.load(row, self._config))
        return views, {}, {**info, "render_s": time.monotonic() - started}


def _from_source(call: Callable[[], T]) -> T:
    """Calls a source; what an object provokes becomes its failure, what the machine does ends the task."""
    try:
        return call()
    except FileNotFoundError as error:
        raise RenderFailure(Failure("missing_file", str(error))) from error
    except MeshError as error:
        raise RenderFailure(Failure(error.kind, str(error))) from error
    except (RenderFailure, FpipeError):
        raise
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise EnvironmentProblem(f"no room for meshes: {error.filename}: {error.strerror}") from error
        if error.errno in UNREACHABLE_ERRNO:
            raise TransientError(f"{error.filename or 'the source'}: {error.strerror}") from error
        raise RenderFailure(Failure("source_error", f"{type(error).__name__}: {error}")) from error
    except Exception as error:  # the worker boundary: whatever an object provokes is recorded
        failure = Failure("source_error", f"{type(error).__name__}: {error}", traceback.format_exc())
        raise RenderFailure(failure) from error


def _mesh_folder(parent: Path) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="mesh-", dir=parent))
    except OSError as error:
        raise EnvironmentProblem(f"no room for meshes in {parent}: {error.strerror}") from error


def _add(outputs: ShardOutputs, row: int, views: ObjectViews, passes: Passes, info: dict[str, Any]) -> None:
    """Adds an object; values that the store refuses (not finite, say) are the object's failure."""
    try:
        outputs.add(row, views, passes, info)
    except ValueError as error:
        raise RenderFailure(Failure("render_error", f"the result cannot be stored: {error}")) from error


def repro_command(root_url: str, object_id: str) -> str:
    """Returns the command that renders one object of a dataset again and says what happens."""
    return shlex.join(["fpipe", "repro", root_url, object_id])
