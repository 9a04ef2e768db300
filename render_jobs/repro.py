"""Renders one object of a dataset alone, in the foreground, and says what happens. Writes no dataset."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from render_jobs.config import ExecutionLimits, RenderConfig
from render_jobs.job import ObjectRenderer
from render_jobs.sources.base import make_source
from render_jobs.worker import BlenderWorker, RenderFailure
from storage.errors import EnvironmentProblem, UsageError
from storage.plan import Plan, read_plan
from storage.records import Failure, ObjectViews, PlanRow
from storage.store import Store

N_PICTURES = 8


@dataclass(frozen=True)
class Reproduction:
    """How it ended.

    Attributes:
        failure: Why the object has no result; None when it has one.
        info: Timings and the like, of a result.
        pictures: Files that were written.
    """

    failure: Failure | None = None
    info: dict[str, Any] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)


def planned_object(plan: Plan, object_id: str) -> PlanRow:
    """Returns an object of the plan; raises UsageError when it has none of this id."""
    try:
        return plan.rows[plan.row_of(object_id)]
    except KeyError as error:
        raise UsageError(f"the dataset has no object {object_id!r}") from error


def repro(
    root_url: str,
    object_id: str,
    limits: ExecutionLimits | None = None,
    out: Path | None = None,
    echo: Callable[[str], None] | None = None,
    path: str | None = None,
) -> Reproduction:
    """Renders one object exactly as the render stage does.

    Args:
        root_url: The dataset, which says how to render and where the mesh is.
        object_id: The object.
        limits: What it may cost.
        out: Folder for pictures of some views; None for none.
        echo: Gets what Blender writes to stdout and stderr, as it comes.
        path: Where the source's meshes are on this machine, None for where the dataset says.

    Raises:
        UsageError: No dataset, or no such object.
        EnvironmentProblem: Blender does not start, or the folder for pictures cannot be written.
    """
    if out is not None:
        make_folder(out)
    plan = read_plan(Store(root_url))
    row = planned_object(plan, object_id)
    source = make_source(plan.source_of(row.row) | ({} if path is None else {"path": path}))
    renderer = ObjectRenderer(root_url, source, RenderConfig(**plan.header.render_config))
    with BlenderWorker(limits, echo=echo) as worker:
        try:
            views, _, info = renderer.render(worker, row)
        except RenderFailure as error:
            return Reproduction(error.failure)
    return Reproduction(None, info, [] if out is None else save_views(views, object_id, out))


def save_views(views: ObjectViews, object_id: str, folder: Path) -> list[Path]:
    """Writes up to `N_PICTURES` views, spread over all of them, as PNG files with their alpha channel."""
    numbers = np.unique(np.linspace(0, len(views.images) - 1, N_PICTURES).astype(int)).tolist()
    return [
        save_picture(views.images[number], folder, f"{object_id}-view-{number:03d}") for number in numbers
    ]


def make_folder(folder: Path) -> Path:
    """Makes a folder for pictures; raises EnvironmentProblem where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentProblem(f"--out {folder}: cannot be made: {error.strerror}") from error
    return folder


def save_picture(pixels: npt.NDArray[np.uint8], folder: Path, name: str) -> Path:
    """Writes one picture [H, W, 3 or 4] as `<folder>/<name>.png`, odd characters replaced."""
    path = make_folder(folder) / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.png"
    Image.fromarray(pixels).save(path)
    return path
