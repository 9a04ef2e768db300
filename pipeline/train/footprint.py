"""Predicts the memory of a training or fitting worker from shapes, before any object exists.

What is kept (views, rays, latents, codes, parameters and their moments) is counted. What a step needs is
measured on small stand-ins: autoencoders run on the `meta` device, which has shapes and no numbers, and the
rendering of one and two objects with few latent pixels is extrapolated, since it grows linearly in both. So
the prediction follows the code. Limits: workspaces of convolutions are not seen, autocast counts as if
the autoencoder's activations were bfloat16 alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from pipeline.fit.settings import FitSettings
from pipeline.model.autoencoder import Autoencoder, new_autoencoder
from pipeline.model.geometry import Geometry
from pipeline.model.identity import IdentityAutoencoder
from pipeline.train.autoencoder import STATISTICS_VIEWS
from pipeline.train.joint import JointTrainer
from pipeline.train.latent_cache import ENCODE_BATCH
from pipeline.train.live_bytes import LiveBytes
from pipeline.train.ray_bank import bank_tables
from pipeline.train.settings import JointSettings
from pipeline.train.training_views import TrainingViews

PROGRAM_BYTES = 550 * 2**20
"""A worker's memory before it has data: the interpreter with torch, diffusers and zarr; seen: 500 to 600."""
OVERHEAD_SHARE = 0.22
"""Of tensors but the views: gaps of the allocator, workspaces of convolutions; seen on CPUs: 0.15 to 0.3."""
RAY_SHARE = 0.3
"""Latent pixels of a view that can meet the object; seen on procedural cars: 0.21 to 0.37."""
_PROBE_PIXELS = (512, 1536)
"""Enough for samples to outweigh planes, as they do in a training."""


@dataclass(frozen=True)
class WorkerLoad:
    """What one worker has to do with.

    Attributes:
        objects: Objects that it holds at a time.
        views: Training views per object.
        size_px: Height and width of a view.
        budget_bytes: Memory for views, rays and latents; None for any amount.
        ray_share: Latent pixels of a view that can meet the object, as a share.
    """

    objects: int
    views: int
    size_px: tuple[int, int]
    budget_bytes: int | None = None
    ray_share: float = RAY_SHARE


@dataclass(frozen=True)
class Footprint:
    """Bytes of one worker.

    Attributes:
        program: Before it has data.
        views: uint8 pixels.
        rays: Rays and hulls.
        latents: Latents of the views.
        state: Parameters, moments, codes, and the gradients of parameters.
        step: The most that a step, the encoding of the views or a checkpoint takes besides.
        overhead: What the allocator and convolutions take besides the tensors.
        files: Of the views, rays and latents, what does not fit the budget and lies in scratch files.
        disk: What these files take on the disk: rays have room there for every latent pixel.
    """

    program: int
    views: int
    rays: int
    latents: int
    state: int
    step: int
    overhead: int
    files: int
    disk: int

    @property
    def total(self) -> int:
        """Memory in all, without what the system may write out."""
        tensors = self.views + self.rays + self.latents + self.state + self.step
        return self.program + tensors + self.overhead - self.files

    def to_dict(self) -> dict[str, int]:
        """As plain values."""
        return {**asdict(self), "total": self.total}


@dataclass(frozen=True)
class RenderingCost:
    """Bytes of rendering B objects with P latent pixels each and back: a + B·(b + P·c).

    Attributes:
        kept: Coefficients of what the graph keeps until the backward.
        backward: Of the most in a backward.
        other: Of the most outside one.
    """

    kept: tuple[float, float, float]
    backward: tuple[float, float, float]
    other: tuple[float, float, float]

    @staticmethod
    def evaluate(line: tuple[float, float, float], objects: int, pixels: float) -> int:
        """Bytes for so many objects with so many pixels each."""
        return int(line[0] + objects * (line[1] + pixels * line[2]))


def training_footprint(
    settings: JointSettings,
    autoencoder: Autoencoder,
    load: WorkerLoad,
    gradient_checkpointing: bool = False,
) -> Footprint:
    """Predict a training worker.

    Args:
        settings: The training, its objects per step those of this worker.
        autoencoder: Its architecture, on `meta`.
        load: What the worker holds.
        gradient_checkpointing: Whether the autoencoder's activations are computed twice.
    """
    if gradient_checkpointing:
        autoencoder = copy.deepcopy(autoencoder)
        autoencoder.enable_gradient_checkpointing()
    s, ae = settings, _parameter_bytes(autoencoder)
    kept = _kept(autoencoder, load, s.geometry)
    planes = 4 * s.n_base * 3 * s.f_mac * s.resolution**2
    codes = load.objects * 4 * (3 * s.f_mic * s.resolution**2 + s.n_base)
    trains = s.autoencoder.steps > 0 or s.joint_steps > 0
    # The autoencoder's own phase and the joint one never keep their moments at the same time.
    state = 3 * codes + 4 * planes + ae * (4 if trains else 1)
    checkpoint = 3 * codes + 3 * planes + ae * (3 if trains else 1)
    cost = rendering_cost(settings, autoencoder)
    steps = [_encoding(autoencoder, load), checkpoint - planes]
    if s.autoencoder.steps:
        crop = s.autoencoder.crop_px
        size = (crop, crop) if 0 < crop < min(load.size_px) else load.size_px
        bf16 = s.autoencoder.dtype == "bfloat16"
        steps.append(_autoencoder_step(autoencoder, s.autoencoder.batch_size, size, bf16))
        steps.append(_encoding(autoencoder, load) + _normaliser(autoencoder, load))
    if s.warmup_steps:
        objects = min(s.warmup_objects, load.objects)
        steps += [cost.evaluate(line, objects, s.warmup_pixels) for line in (cost.backward, cost.other)]
    if s.joint_steps:
        steps.append(_joint_step(s, autoencoder, load, cost))
    # The gradients of the planes are in the state and in the rendering's cost: once is enough.
    return _footprint(kept, state - planes, max(steps), _files(autoencoder, load, s.geometry))


def fit_footprint(
    settings: FitSettings, shared: JointSettings, autoencoder: Autoencoder, load: WorkerLoad
) -> Footprint:
    """Predict a worker that fits a batch of `load.objects` to shared components of the training's sizes."""
    s = settings
    same = replace(shared, n_samples=s.n_samples, n_fine=s.n_fine, free_points=s.free_points)
    views, rays, latents = _kept(autoencoder, load, shared.geometry)
    # An object keeps its own rays and targets, and what a step of all reads is a copy, with backgrounds.
    targets = int(latents * load.ray_share)
    kept = (views, 2 * rays, latents + 3 * targets)
    planes = 4 * shared.n_base * 3 * shared.f_mac * shared.resolution**2
    texels = sum((shared.resolution >> level) ** 2 for level in range(s.levels))
    codes = load.objects * 4 * (3 * shared.f_mic * texels + shared.n_base)
    cost = rendering_cost(same, autoencoder)
    latent = cost.evaluate(cost.backward, load.objects, s.latent_pixels)
    height, width = _window(s.crop_px, autoencoder, load)
    pixels = s.rgb_views * _window_pixels(height, width, autoencoder, load)
    windows = load.objects * s.rgb_views
    decoded = _tracked_decode(autoencoder, windows, height, width, frozen=True)
    rgb = max(
        cost.evaluate(cost.kept, load.objects, pixels) + decoded,
        cost.evaluate(cost.backward, load.objects, pixels),
    )
    step = max(latent, rgb if s.rgb_steps else 0, _encoding(autoencoder, load))
    return _footprint(kept, 3 * codes + planes + _parameter_bytes(autoencoder), step, (0, 0))


def _footprint(kept: tuple[int, int, int], state: int, step: int, files: tuple[int, int]) -> Footprint:
    in_memory = max(0, kept[1] + kept[2] - files[0]) + state + step
    return Footprint(PROGRAM_BYTES, *kept, state, step, int(OVERHEAD_SHARE * in_memory), *files)


def _kept(autoencoder: Autoencoder, load: WorkerLoad, geometry: Geometry) -> tuple[int, int, int]:
    """Bytes of views, rays and latents."""
    height, width = load.size_px
    pixels = _latent_pixels(autoencoder, load)
    rays = _ray_bytes(int(pixels * load.ray_share), load, geometry)
    views = load.objects * load.views * height * width * 4
    return views, sum(rays), pixels * autoencoder.latent_channels * 4


def _files(autoencoder: Autoencoder, load: WorkerLoad, geometry: Geometry) -> tuple[int, int]:
    """Bytes in scratch files, and on the disk, array by array: what comes first and fits has the memory."""
    if load.budget_bytes is None:
        return 0, 0
    views, _, latents = _kept(autoencoder, load, geometry)
    pixels = _latent_pixels(autoencoder, load)
    # Rays are given room for every latent pixel; what they do not need of it takes no memory.
    most = _ray_bytes(pixels, load, geometry)
    rays = zip(most, _ray_bytes(int(pixels * load.ray_share), load, geometry), strict=True)
    left, files, disk = load.budget_bytes, 0, 0
    for room, size in ((views, views), *rays, (latents, latents)):
        if room <= left:
            left -= room
        else:
            files, disk = files + size, disk + room
    return files, disk


def _latent_pixels(autoencoder: Autoencoder, load: WorkerLoad) -> int:
    """Of all views."""
    height, width = (side // autoencoder.factor for side in load.size_px)
    return load.objects * load.views * height * width


def _ray_bytes(n_pixels: int, load: WorkerLoad, geometry: Geometry) -> list[int]:
    """Bytes of every array of the rays of so many latent pixels."""
    tables = bank_tables(n_pixels, load.objects, geometry).values()
    return [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in tables]


def _joint_step(s: JointSettings, autoencoder: Autoencoder, load: WorkerLoad, cost: RenderingCost) -> int:
    objects = min(s.joint_objects, load.objects)
    n_views = min(s.joint_views, load.views)
    height, width = _window(s.crop_px, autoencoder, load)
    pixels = n_views * _window_pixels(height, width, autoencoder, load)
    windows = objects * n_views
    bf16 = s.dtype == "bfloat16"
    encode_kept, encode_peak = _tracked_encode(autoencoder, windows + 1, height, width, bf16)
    both = windows + -(-windows // s.ae_every)
    decode_peak = _tracked_decode(autoencoder, both, height, width, bf16=bf16)
    return max(
        encode_peak,
        encode_kept + cost.evaluate(cost.kept, objects, pixels) + decode_peak,
        encode_kept + cost.evaluate(cost.backward, objects, pixels),
    )


def _window(crop_px: int, autoencoder: Autoencoder, load: WorkerLoad) -> tuple[int, int]:
    """Height and width of a step's windows, pixels."""
    f = autoencoder.factor
    height, width = (min(crop_px // f, side // f) * f if crop_px else side for side in load.size_px)
    return height, width


def _window_pixels(height: int, width: int, autoencoder: Autoencoder, load: WorkerLoad) -> float:
    """Latent pixels of a window that are rendered: windows lie around the object."""
    shown = load.ray_share * load.size_px[0] * load.size_px[1]
    return min(height * width, shown) / autoencoder.factor**2


def _parameter_bytes(autoencoder: Autoencoder) -> int:
    return sum(int(p.numel()) * 4 for p in autoencoder.parameters())


def _model(autoencoder: Autoencoder, bf16: bool) -> Autoencoder:
    """A copy in the type of its activations, without gradients."""
    model = copy.deepcopy(autoencoder).to(torch.bfloat16 if bf16 else torch.float32)
    model.zero_grad(set_to_none=True)
    return model


def _dtype(model: Autoencoder) -> torch.dtype:
    """Of the activations; autocast leaves those alone that no parameter meets."""
    return next((param.dtype for param in model.parameters()), torch.float32)


def _encoding(autoencoder: Autoencoder, load: WorkerLoad) -> int:
    """The most that encoding the views without gradients takes."""
    rgb = torch.empty(ENCODE_BATCH, 3, *load.size_px, device="meta")
    with torch.no_grad(), LiveBytes() as live:
        autoencoder.encode(rgb)
    return int(live.peak + rgb.nbytes)


def _normaliser(autoencoder: Autoencoder, load: WorkerLoad) -> int:
    """What the normaliser is computed from: latents of some views, a copy, and it sorted with its order."""
    views = min(STATISTICS_VIEWS, load.objects * load.views)
    height, width = (side // autoencoder.factor for side in load.size_px)
    return views * autoencoder.latent_channels * height * width * (4 + 4 + 4 + 8)


def _tracked_encode(autoencoder: Autoencoder, n: int, height: int, width: int, bf16: bool) -> tuple[int, int]:
    """What an encoding keeps for its backward, and the most with that backward."""
    model = _model(autoencoder, bf16)
    rgb = torch.empty(n, 3, height, width, device="meta", dtype=_dtype(model))
    with LiveBytes() as live:
        latents = model.encode(rgb)
        kept = live.now
        if latents.requires_grad:
            latents.sum().backward()  # type: ignore[no-untyped-call]
        del latents
    return kept + rgb.nbytes, live.peak + rgb.nbytes - _gradient_bytes(model)


def _tracked_decode(
    autoencoder: Autoencoder, n: int, height: int, width: int, *, bf16: bool = False, frozen: bool = False
) -> int:
    """The most that a decoding, its loss and its backward take."""
    model = _model(autoencoder, bf16).requires_grad_(not frozen)
    f, dtype = model.factor, _dtype(model)
    shape = (n, model.latent_channels, height // f, width // f)
    latents = torch.empty(shape, device="meta", dtype=dtype, requires_grad=True)
    with LiveBytes() as live:
        rgb = torch.empty(n, 3, height, width, device="meta")
        loss = (model.decode(latents).float() - rgb).square().flatten(1).mean(1)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        del loss, rgb
    return int(live.peak - _gradient_bytes(model))


def _autoencoder_step(autoencoder: Autoencoder, n: int, size: tuple[int, int], bf16: bool) -> int:
    kept, peak = _tracked_encode(autoencoder, n, *size, bf16)
    return max(peak, kept + _tracked_decode(autoencoder, n, *size, bf16=bf16))


def _gradient_bytes(model: Autoencoder) -> int:
    """Gradients that lie in the model, which the state counts."""
    return sum(int(p.grad.nbytes) for p in model.parameters() if p.grad is not None)


def rendering_cost(settings: JointSettings, autoencoder: Autoencoder) -> RenderingCost:
    """Measure what steps on one and two objects take and put lines through it."""
    few, more = _PROBE_PIXELS
    one, two, most = (_probe(settings, autoencoder, *at) for at in ((1, few), (2, few), (2, more)))

    def line(read: Callable[[LiveBytes], int]) -> tuple[float, float, float]:
        per_pixel = (read(most) - read(two)) / (2 * (more - few))
        per_object = read(two) - read(one) - few * per_pixel
        return read(one) - per_object - few * per_pixel, per_object, per_pixel

    return RenderingCost(
        line(lambda live: live.at_backward),
        line(lambda live: live.peak_backward),
        line(lambda live: live.peak_forward),
    )


def _probe(settings: JointSettings, like: Autoencoder, objects: int, pixels: int) -> LiveBytes:
    """Run two warm-up steps on stand-in objects and watch the second: the first makes what stays."""
    f = like.factor
    size = 4 * f
    views = TrainingViews(
        "",
        np.full((1, size, size, 4), 255, np.uint8),
        _camera(settings),
        np.array([[[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]]], np.float32),
        has_alpha=False,
    )
    short = replace(
        settings,
        autoencoder=replace(settings.autoencoder, steps=0),
        warmup_steps=2,
        warmup_objects=objects,
        warmup_pixels=pixels,
        joint_steps=0,
    )
    autoencoder = _probe_autoencoder(like)
    trainer = JointTrainer(
        [replace(views, object_id=str(i)) for i in range(objects)], autoencoder, short, seed=0
    )
    trainer.at_once = True  # as the later steps are; one object after the other takes less
    trainer.step()
    live = LiveBytes()
    with live:
        trainer.step()
    return live


def _probe_autoencoder(like: Autoencoder) -> Autoencoder:
    """One with latents of the same shape that costs little: the warm-up never runs it on a step's pixels."""
    if isinstance(like, IdentityAutoencoder):
        return IdentityAutoencoder()
    autoencoder = new_autoencoder("tiny", factor=like.factor, latent_channels=like.latent_channels)
    autoencoder.is_new = False  # nothing can be learnt from white views
    return autoencoder


def _camera(settings: JointSettings) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A camera that looks at the object from the middle of the rays' range."""
    pose = np.eye(4, dtype=np.float32)
    pose[2, 3] = -0.5 * (settings.geometry.near + settings.geometry.far)
    return pose[None]


def architecture(size: str, factor: int | None, latent_channels: int | None) -> Autoencoder:
    """Build an autoencoder of a size on `meta`: shapes without memory."""
    with torch.device("meta"):
        return new_autoencoder(size, factor=factor, latent_channels=latent_channels)
