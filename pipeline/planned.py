"""What the input of a dataset decides: its objects, the size of views that exist, the cameras of a file.

Numbers of the render section that the input decides count as open unless somebody gave them: in a flag, a
setting, the environment, a YAML file of one's own, or a plan that exists. Presets of fpipe do not count.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec

from pipeline.config import PipelineConfig, SourceConfig
from render_jobs.config import RenderConfig
from render_jobs.poses import Rig, hashed_name, object_cameras, parse_rig, stored_key
from render_jobs.sources.base import VIEWS_KINDS, ObjectEntry, ViewsSize, ViewsSource, make_source
from render_jobs.sources.synsets import class_of
from storage import layout
from storage.documents import differences, dump_document, parse_unsealed, plain
from storage.errors import ConfigError, EnvironmentProblem, StoreMismatchError, UsageError
from storage.plan import Plan, read_plan
from storage.remote_errors import translated
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


def write_config(store: Store, config: PipelineConfig) -> None:
    """Writes down the config of a dataset, unless the one that is there has the same input and views."""
    data = dump_document(plain(config.model_dump(mode="json")), readable=True)
    if not store.create(layout.PLAN_CONFIG, data) and _differences(store, config):
        store.replace(layout.PLAN_CONFIG, data)


def existing_plan(store: Store, config: PipelineConfig) -> Plan | None:
    """Returns the plan of a dataset that was planned with this input and these views; None where none is.

    The source is not looked at: what was planned stays, whatever has come or gone there since.

    Raises:
        StoreMismatchError: The dataset was planned with others; nothing was changed.
        UsageError: The config names a camera file that is not there.
    """
    if stored_config(store) is None:
        return None
    if found := _differences(store, stored_form(config)[0]):
        raise StoreMismatchError(
            f"{store.url} holds another dataset: {'; '.join(found[:8])}. "
            "Use the same configuration, or another root"
        )
    return read_plan(store)


def _differences(store: Store, config: PipelineConfig) -> list[str]:
    """Names what a config, its camera file named by its hash, asks for and a dataset was not planned with."""
    stored = parse_unsealed(store.read(layout.PLAN_CONFIG), layout.PLAN_CONFIG)
    source, render = SourceConfig(**stored["source"]), RenderConfig(**stored["render"])
    open_values = {
        name: getattr(render, name) for name in open_sizes(config) - config.render.model_fields_set
    }
    asked = _comparable(config.source, config.render.model_copy(update=open_values))
    return differences(asked, _comparable(source, render))


def _comparable(source: SourceConfig, render: RenderConfig) -> dict[str, Any]:
    classes = ",".join(
        class_of(name) + ("" if count is None else f":{count}") for name, count in source.classes.items()
    )
    return {
        "source": {**source.model_dump(mode="json"), "classes": classes or "all"},
        "render": render.model_dump(mode="json"),
    }


def stored_config(store: Store) -> dict[str, Any] | None:
    """Returns the config that a dataset was planned with, None where there is no dataset.

    Its camera file is the copy in the dataset.
    """
    if not store.exists(
        layout.PLAN_HEADER
    ):  # the config is written first: it may be of a plan that never was
        return None
    try:
        values = parse_unsealed(store.read(layout.PLAN_CONFIG), layout.PLAN_CONFIG)
    except FileNotFoundError:
        return None
    cameras = values.get("render", {}).get("cameras")
    if cameras is not None:
        values["render"]["cameras"] = f"{store.url}/{stored_key(cameras)}"
    return values
