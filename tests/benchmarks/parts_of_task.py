"""Where the time of a shard's task goes: the real task functions with clocks at the seams.

For `bench_overhead`; a module of its own, because workers import it by name, and it imports no more than the
task itself does. Every moment of a task belongs to one part, the innermost that is open; processor time and
wall time are kept apart.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import time
from collections.abc import Iterator
from typing import Any

import psutil

from storage.builder import ShardBuilder
from storage.planes import PlanesShardBuilder, PlanesStore
from storage.views import ViewsShardBuilder, ViewsStore

RENDER_WORK = ("source", "encode")
"""Fetching or making the mesh; compression and checksums of the images. What Blender does is added to it."""
FIT_WORK = ("fit", "evaluate", "encode")
"""Rays, latents and steps; the held-out figures; rounding, checksums and statistics of the planes."""


class Parts:
    """Seconds of the processor and of the clock, by part."""

    def __init__(self) -> None:
        self.cpu: dict[str, float] = {}
        self.wall: dict[str, float] = {}
        self._open: list[str] = []
        self._at = (time.process_time(), time.perf_counter())

    @contextlib.contextmanager
    def span(self, part: str) -> Iterator[None]:
        """Counts what happens in the block for a part, without what inner blocks count for theirs."""
        self._charge()
        self._open.append(part)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        now = (time.process_time(), time.perf_counter())
        if self._open:
            part = self._open[-1]
            self.cpu[part] = self.cpu.get(part, 0.0) + now[0] - self._at[0]
            self.wall[part] = self.wall.get(part, 0.0) + now[1] - self._at[1]
        self._at = now


_parts = Parts()
_ended: tuple[float, float] | None = None
"""Processor and wall time at the end of this process's last task."""


def _clocked(owner: Any, name: str, part: str) -> None:
    inner = owner.__dict__[name]
    is_class_method = isinstance(inner, classmethod)
    function = inner.__func__ if is_class_method else inner

    @functools.wraps(function)
    def clocked(*args: Any, **kwargs: Any) -> Any:
        with _parts.span(part):
            return function(*args, **kwargs)

    setattr(owner, name, classmethod(clocked) if is_class_method else clocked)


@functools.cache
def _clocks_of_store() -> None:
    _clocked(ViewsStore, "open", "store: open")
    _clocked(PlanesStore, "open", "store: open")
    _clocked(ViewsStore, "read", "store: read")
    _clocked(ViewsShardBuilder, "add", "encode")
    _clocked(PlanesShardBuilder, "add", "encode")
    _clocked(ShardBuilder, "commit", "store: commit")


@functools.cache
def _clocks_of_render() -> None:
    from render_jobs import job, worker

    _clocks_of_store()
    _clocked(job, "_from_source", "source")
    _clocked(job.ObjectRenderer, "of_plan", "source")
    _clocked(worker.BlenderWorker, "_new_child", "blender start")
    _clocked(worker.BlenderWorker, "close", "blender end")
    _clocked(worker._Child, "render", "pipes")


@functools.cache
def _clocks_of_fit() -> None:
    from pipeline.fit.job import ShardFitter

    _clocks_of_store()
    _clocked(ShardFitter, "of_fit", "shared components")
    _clocked(ShardFitter, "add", "fit")
    _clocked(ShardFitter, "evaluate", "evaluate")


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _timed(function: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Runs a task with clocks, and puts their figures into its answer."""
    global _parts, _ended
    cpu, wall, children = time.process_time(), time.time(), _children_cpu_s()
    if _ended is None:
        before = {"start": (cpu, wall - psutil.Process().create_time())}
    else:
        before = {"between tasks": (cpu - _ended[0], wall - _ended[1])}
    _parts = Parts()
    with _parts.span("task"):
        answer: dict[str, Any] = function(**arguments)
    _ended = (time.process_time(), time.time())
    figures = {
        "before": before,
        "cpu": _parts.cpu,
        "wall": _parts.wall,
        "children_cpu_s": _children_cpu_s() - children,
        "process": os.getpid(),
        "process_cpu_s": _ended[0],
    }
    return {**answer, "parts": figures}


def render_shard(**arguments: Any) -> dict[str, Any]:
    """`render_jobs.job.render_shard` with clocks."""
    from render_jobs import job

    _clocks_of_render()
    return _timed(job.render_shard, arguments)


def fit_shard(**arguments: Any) -> dict[str, Any]:
    """`pipeline.fit.job.fit_shard` with clocks."""
    from pipeline.fit import job

    _clocks_of_fit()
    return _timed(job.fit_shard, arguments)
