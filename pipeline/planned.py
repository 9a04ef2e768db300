"""What the input of a dataset decides: its objects, the size of views that exist, the cameras of a file.

Numbers of the render section that the input decides count as open unless somebody gave them: in a flag, a
setting, the environment, a YAML file of one's own, or a plan that exists. Presets of fpipe do not count.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec

from pipeline.config import PipelineConfig
from render_jobs.poses import Rig, hashed_name, object_cameras, parse_rig, stored_key
from render_jobs.sources.base import VIEWS_KINDS, ObjectEntry, ViewsSize, ViewsSource, make_source
from storage import layout
from storage.errors import ConfigError, EnvironmentProblem, UsageError
from storage.remote_files import translated
from storage.store import Store

FACTOR = 8
"""Image sizes are multiples of it, see PipelineConfig."""


def open_sizes(config: PipelineConfig) -> frozenset[str]:
    """Returns the fields of the render section that this input decides."""
    if config.source.kind in VIEWS_KINDS:
        return frozenset({"views", "width", "height"})
    return frozenset({"views"}) if config.render.cameras is not None else frozenset()


def planned(config: PipelineConfig) -> tuple[PipelineConfig, list[ObjectEntry]]:
    """Returns the config with the numbers that the input decides, and the source's objects in a fixed order.

    Raises:
        UsageError: Missing folder or file, unknown class, fewer objects than asked for, no readable views.
        ConfigError: The cameras of the file, or the size of the views, do not suit the config.
    """
    source = make_source(config.source.spec())
    entries = source.list(dict(config.source.classes), config.source.seed)
    if not entries:
        raise UsageError(
            f"source {source.name}: no objects found for {dict(config.source.classes) or 'any class'}"
        )
    if isinstance(source, ViewsSource) and open_sizes(config) - config.render.model_fields_set:
        config = _with_size(config, source.measure(entries))
    elif config.render.cameras is not None:
        config = _with_rig(config, parse_rig(read_cameras(config.render.cameras), config.render.cameras))
    return config, entries


def _with_size(config: PipelineConfig, found: ViewsSize) -> PipelineConfig:
    given = config.render.model_fields_set
    found_values = {"views": found.n_views, "width": found.width, "height": found.height}
    values = {name: value for name, value in found_values.items() if name not in given}
    if values.get("views", 2) < 2:
        raise ConfigError("the objects have one view each: at least 2 are needed, one to train, one held out")
    for name in ("width", "height"):
        if values.get(name, FACTOR) % FACTOR:
            raise ConfigError(_size_message(found))
    return config.model_copy(update={"render": config.render.model_copy(update=values)})


def _size_message(found: ViewsSize) -> str:
    """Says which size to ask for: the largest of the same shape that the autoencoder can take."""
    has = f"the views have {found.width}×{found.height} px, but sizes must be multiples of {FACTOR}"
    if found.width == found.height:
        return f"{has}: resize them with --resolution {max(FACTOR, found.width // FACTOR * FACTOR)}"
    for height in range(found.height // FACTOR * FACTOR, 0, -FACTOR):
        width = found.width * height / found.height
        if width % FACTOR == 0:
            return f"{has}: resize them with --set render.width={width:.0f} --set render.height={height}"
    return f"{has}, and no size of this shape is one: crop the images, for instance to squares"


def _with_rig(config: PipelineConfig, rig: Rig) -> PipelineConfig:
    if "views" in config.render.model_fields_set and config.render.views != len(rig.frames):
        raise ConfigError(
            f"render.views is {config.render.views}, but {config.render.cameras} has {len(rig.frames)}"
            " cameras: leave out --views"
        )
    render = config.render.model_copy(update={"views": len(rig.frames)})
    object_cameras(render, "", rig)  # says now what would otherwise end every task
    return config.model_copy(update={"render": render})


def read_cameras(path: str) -> bytes:
    """Returns the bytes of a camera file.

    Raises:
        UsageError: There is no such file.
        EnvironmentProblem, TransientError: It cannot be read.
    """
    try:
        if "://" not in path and not Path(path).is_file():
            raise UsageError(f"render.cameras: {path} is no file")
        with fsspec.open(path, "rb") as file:
            return bytes(file.read())
    except FileNotFoundError as error:
        raise UsageError(f"render.cameras: there is no {path}") from error
    except (ImportError, OSError) as error:
        problem = translated(error, path)
        raise (problem if problem is not error else EnvironmentProblem(f"{path}: {error}")) from error


def stored_form(config: PipelineConfig) -> tuple[PipelineConfig, bytes | None]:
    """Returns the config as a plan stores it, the camera file named by its hash, and that file."""
    if config.render.cameras is None:
        return config, None
    data = read_cameras(config.render.cameras)
    render = config.render.model_copy(update={"cameras": hashed_name(data)})
    return config.model_copy(update={"render": render}), data


def stored_config(store: Store) -> dict[str, Any] | None:
    """Returns the config that a dataset was planned with, None where there is no dataset.

    Its camera file is the copy in the dataset.
    """
    try:
        values: dict[str, Any] = json.loads(store.read(layout.PLAN_CONFIG))
    except FileNotFoundError:
        return None
    cameras = values.get("render", {}).get("cameras")
    if cameras is not None:
        values["render"]["cameras"] = f"{store.url}/{stored_key(cameras)}"
    return values
