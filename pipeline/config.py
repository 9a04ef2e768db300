"""Assembles the configuration of a whole dataset from presets, files, flags and environment.

Each stage's model sits beside its code; this module only puts them together, reads YAML, and checks rules
that cross stages. Precedence, lowest first: defaults · preset or stored config · FPIPE_SECTION__KEY
environment · flags and `--set`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.backlog import RetryConfig
from pipeline.executor import TaskResources
from pipeline.fit.config import FitConfig
from pipeline.train.config import TrainConfig
from pipeline.train.monitor_config import MonitorConfig
from render_jobs.config import RENDERED_ONLY, ExecutionLimits, RenderConfig
from render_jobs.sources.base import VIEWS_KINDS, SourceKind, SourceSpec
from storage.errors import ConfigError
from storage.redaction import redact


class SourceConfig(SourceSpec):
    """Which objects a dataset holds."""

    kind: SourceKind = Field(
        default="procedural",
        description="Built-in meshes, ShapeNetCore's layout, a folder of meshes, a morphable model, or views "
        "that exist.",
    )
    classes: dict[str, int | None] = Field(
        default_factory=dict,
        description="Class name or synset and how many of it, null for all; empty: every class.",
    )
    seed: int = Field(
        default=0, ge=0, description="Chooses which objects, where there are more than asked for."
    )

    def spec(self) -> dict[str, Any]:
        """Returns what render_jobs.sources.base.make_source needs."""
        return self.model_dump(mode="json", exclude={"classes", "seed"}, exclude_none=True)


def _require_custom(amounts: dict[str, float]) -> dict[str, float]:
    """Refuses what has settings of its own, and what would reserve nothing."""
    for name, amount in amounts.items():
        if name in ("CPU", "GPU", "memory"):
            raise ValueError(f"{name} is no custom resource: set cpus, gpus or memory_bytes")
        if not amount > 0:
            raise ValueError(f"{name}: {amount:g} is no amount: give more than 0")
    return amounts


CustomResources = Annotated[dict[str, float], AfterValidator(_require_custom)]


class ComputeConfig(BaseModel):
    """Where and with how much the stages run. Never part of a content hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    executor: Literal["ray", "local"] = Field(
        default="ray", description="Ray tasks, or plain processes of this machine."
    )
    ray_address: str | None = Field(
        default=None, description="A cluster's address; unset starts Ray on this machine."
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        description="Tasks at a time, for which shards are cut; unset: cores, or as many as a cluster runs.",
    )
    render_cpus: float = Field(
        default=1.0, gt=0, description="Cores per render task (Blender renders on one)."
    )
    render_gpus: float | None = Field(
        default=None, ge=0, description="GPUs per render task; unset: 1 where limits.device is a GPU, else 0."
    )
    render_memory_bytes: int = Field(
        default=0, ge=0, description="Memory that Ray reserves per render task, 0 for none."
    )
    render_labels: dict[str, str] = Field(
        default_factory=dict,
        description="Labels that Ray's node must have for a render task; also !value, in(a,b), !in(a,b).",
    )
    render_resources: CustomResources = Field(
        default_factory=dict, description="Custom resources that Ray reserves per render task, name: amount."
    )
    train_workers: int = Field(
        default=1, ge=1, description="Ray Train workers (ranks) of the joint training."
    )
    train_cpus: int | None = Field(
        default=None, ge=1, description="Cores per training worker; unset: all divided by the workers."
    )
    train_gpus: float = Field(default=0.0, ge=0, description="GPUs per training worker.")
    train_reserved_bytes: int = Field(
        default=0, ge=0, description="Memory that Ray reserves per training worker, 0 for none."
    )
    train_labels: dict[str, str] = Field(
        default_factory=dict, description="Labels that Ray's node must have for a training worker."
    )
    train_resources: CustomResources = Field(
        default_factory=dict, description="Custom resources that Ray reserves per training worker."
    )
    checkpoint_every_s: float = Field(
        default=20.0,
        gt=0,
        description="Seconds of training that a kill costs, more where a checkpoint takes seconds to write.",
    )
    checkpoints: int = Field(
        default=2, ge=2, description="Checkpoints of a training that are kept, per worker."
    )
    train_memory_bytes: int = Field(
        default=4 * 2**30,
        ge=0,
        description="Memory of a training worker for views, rays, latents; the rest lies in files in TMPDIR.",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Compute the autoencoder's activations twice in training instead of keeping them.",
    )
    fit_cpus: float = Field(default=1.0, gt=0, description="Cores, and torch threads, per fit task.")
    fit_gpus: float = Field(default=0.0, ge=0, description="GPUs per fit task, fractions allowed.")
    fit_memory_bytes: int = Field(
        default=0, ge=0, description="Memory that Ray reserves per fit task, 0 for none."
    )
    fit_labels: dict[str, str] = Field(
        default_factory=dict, description="Labels that Ray's node must have for a fit task."
    )
    fit_resources: CustomResources = Field(
        default_factory=dict, description="Custom resources that Ray reserves per fit task."
    )
    kernel: Literal["torch", "auto", "fused"] = Field(
        default="torch",
        description="What decodes points: torch's operations, or on CUDA the Triton kernel; auto takes it"
        " where it gives torch's results, fused insists.",
    )
    max_attempts: int = Field(
        default=3,
        ge=1,
        description="Tries per shard, and starts of a training, for each class of failure that may pass.",
    )
    retry: RetryConfig = Field(
        default_factory=RetryConfig, description="Tries and pauses by class of failure."
    )
    max_calls: int = Field(
        default=64,
        ge=0,
        description="Shards after which a Ray worker process is replaced, on average; 0: never.",
    )
    wait_for_nodes_s: float = Field(
        default=900.0,
        ge=0,
        description="Seconds to wait while no node of a cluster can run the tasks (autoscaling, lost nodes).",
    )
    grace_s: float = Field(
        default=20.0,
        ge=0,
        description="Seconds that running shards get after SIGTERM or Ctrl-C; 0 abandons them at once.",
    )
    render_deadline_s: float | None = Field(
        default=None,
        ge=0,
        description="Seconds after which a render task ends itself; unset or 0: from limits and its objects.",
    )
    fit_deadline_s: float = Field(
        default=86_400.0, gt=0, description="Seconds after which a fit task ends itself."
    )
    mesh_cache_dir: str = Field(
        default="~/.cache/fpipe/meshes",
        description="Folder on each node that keeps meshes fetched from URLs; ~ is the node's home.",
    )
    mesh_cache_bytes: int = Field(
        default=10 * 2**30, ge=0, description="Bytes that the folder may take on one node; 0 keeps nothing."
    )
    monitor: MonitorConfig = Field(
        default_factory=MonitorConfig, description="What is recorded while train-shared runs."
    )
    limits: ExecutionLimits = Field(
        default_factory=ExecutionLimits, description="Bounds per object when rendering."
    )

    def fit_task(self) -> TaskResources:
        """Returns what one fit task needs."""
        return TaskResources(
            cpus=self.fit_cpus,
            gpus=self.fit_gpus,
            memory_bytes=self.fit_memory_bytes,
            labels=self.fit_labels,
            custom=self.fit_resources,
            deadline_s=self.fit_deadline_s,
        )

    def mesh_cache(self) -> dict[str, Any] | None:
        """Returns the arguments of a node's mesh cache, None where none is wanted."""
        if not self.mesh_cache_bytes:
            return None
        return {"folder": self.mesh_cache_dir, "max_bytes": self.mesh_cache_bytes}


class PipelineConfig(BaseModel):
    """Everything that decides what a dataset contains, and how it is computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: SourceConfig = Field(default_factory=SourceConfig, description="Where the meshes come from.")
    render: RenderConfig = Field(default_factory=RenderConfig, description="Views and their quality.")
    train: TrainConfig = Field(
        default_factory=TrainConfig, description="Joint training of the shared components."
    )
    fit: FitConfig = Field(
        default_factory=FitConfig, description="Fitting objects to frozen shared components."
    )
    compute: ComputeConfig = Field(default_factory=ComputeConfig, description="Executors and resources.")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        for name, pixels in (("width", self.render.width), ("height", self.render.height)):
            if pixels % 8:
                raise ValueError(f"render.{name} {pixels} is not a multiple of 8, the autoencoder's factor")
        return self

    @model_validator(mode="after")
    def _one_loss_without_autoencoder(self) -> Self:
        """A rendered latent is RGB then: both losses would be the same one, with weights that add up."""
        if self.train.autoencoder.size == "identity" and self.fit.lambda_latent:
            raise ValueError(
                "train.autoencoder.size identity has the RGB loss alone: set fit.lambda_latent to 0"
                " (fit.lambda_rgb is its weight)"
            )
        return self

    @model_validator(mode="after")
    def _nothing_to_render(self) -> Self:
        """Views that exist are as they are: a setting of the renderer would do nothing."""
        if self.source.kind in VIEWS_KINDS:
            for name in RENDERED_ONLY:
                if getattr(self.render, name) != RenderConfig.model_fields[name].default:
                    raise ValueError(
                        f"render.{name} says how to render, but source {self.source.kind} has views"
                    )
        return self

    def least_fit_objects(self) -> int:
        """Returns the objects that a fit shard has at least: a GPU's batch, where its size is set."""
        return max(1, self.fit.batch) if self.compute.fit_gpus else 1

    def content(self, section: Literal["source", "render", "train", "fit"]) -> dict[str, Any]:
        """Returns one section as plain JSON values."""
        part: BaseModel = getattr(self, section)
        values: dict[str, Any] = part.model_dump(mode="json")
        return values


def preset_names() -> list[str]:
    """Returns the names of the presets that come with fpipe: "demo", "ablation/rgb" and so on."""
    folder = resources.files("pipeline") / "presets"
    entries = [("", entry) for entry in folder.iterdir()]
    entries += [
        (f"{entry.name}/", inner) for _, entry in entries if entry.is_dir() for inner in entry.iterdir()
    ]
    return sorted(
        prefix + entry.name.removesuffix(".yaml") for prefix, entry in entries if entry.name.endswith(".yaml")
    )


def read_preset(preset: str) -> dict[str, Any]:
    """Returns the values of a preset by name, or of a YAML file by path.

    A preset may extend another: `extends: NAME` takes its values, replaced one by one where both have them.

    Raises:
        ConfigError: no such preset, not a YAML mapping, or presets that extend each other.
    """
    return _read_preset(preset, ())


def _read_preset(preset: str, extended_by: tuple[str, ...]) -> dict[str, Any]:
    if preset in extended_by:
        raise ConfigError(f"presets extend each other: {' → '.join((*extended_by, preset))}")
    if preset in preset_names():
        text = (resources.files("pipeline") / "presets" / f"{preset}.yaml").read_text()
    elif Path(preset).is_file():
        text = Path(preset).read_text()
    else:
        raise ConfigError(
            f"no preset {preset!r}: use one of {', '.join(preset_names())}, or the path of a YAML file"
        )
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"preset {preset}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"preset {preset}: the file must hold a mapping of sections")
    base = values.pop("extends", None)
    return values if base is None else _merged(_read_preset(str(base), (*extended_by, preset)), values)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Returns nested values with others put over them."""
    merged = dict(base)
    for name, value in over.items():
        inner = merged.get(name)
        both = isinstance(inner, dict) and isinstance(value, dict)
        merged[name] = _merged(inner, value) if both and inner is not None else value
    return merged


def load_config(
    base: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> PipelineConfig:
    """Builds the resolved configuration.

    Args:
        base: values of a preset or of a stored config.
        overrides: dotted keys from flags, e.g. {"render.views": 40}.
        settings: texts of `--set`, e.g. "fit.steps=300"; values are read as YAML.
        environment: FPIPE_SECTION__KEY variables are read from it, others ignored.

    Raises:
        ConfigError: an unknown key or a bad value; the message names it.
    """
    values: dict[str, Any] = json.loads(json.dumps(dict(base)))
    for name, text in sorted((environment or {}).items()):
        if name.startswith("FPIPE_") and "__" in name:
            _assign(values, name.removeprefix("FPIPE_").lower().replace("__", "."), _parse(text))
    for key, value in (overrides or {}).items():
        _assign(values, key, value)
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            raise ConfigError(f"--set {setting!r}: write it as section.key=value")
        _assign(values, key.strip(), _parse(text))
    try:
        return PipelineConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(problem) for problem in error.errors())) from error


def _parse(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Sets a nested value by its dotted key, making the mappings on the way."""
    *path, last = dotted.split(".")
    for name in path:
        inner = values.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{dotted}: {name} is a value, not a section")
        values = inner
    values[last] = value


def _explain(problem: Any) -> str:
    """Returns one line for one of pydantic's findings."""
    key = ".".join(str(part) for part in problem["loc"]) or "config"
    if problem["type"] == "extra_forbidden":
        return f"{key}: no such setting{_nearest(key)}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {message} (got {redact(repr(problem['input']))})" if problem["loc"] else message


def _nearest(key: str) -> str:
    """Returns a hint with the most similar known key."""
    import difflib

    known = list(_known_keys(PipelineConfig, ""))
    found = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f", did you mean {found[0]}?" if found else ""


def _known_keys(model: type[BaseModel], prefix: str) -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
    return keys
