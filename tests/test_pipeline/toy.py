"""Toy objects for tests of training and fitting: ray-traced ellipsoids, a small autoencoder and settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from pipeline.fit.settings import FitSettings
from pipeline.model.autoencoder import Autoencoder, new_autoencoder
from pipeline.model.geometry import Geometry
from pipeline.model.shared import SharedComponents
from pipeline.train.joint import JointTrainer
from pipeline.train.settings import AutoencoderRecipe, JointSettings
from pipeline.train.training_views import TrainingViews

SIZE_PX = 32
torch.set_num_threads(1)  # tensors are tiny: threads would only wait for each other
GEOMETRY = Geometry(n_coarse=24, n_fine=0, sigma_scale=10.0)


@dataclass(frozen=True)
class ToyObject:
    """All views of one ellipsoid."""

    object_id: str
    images: np.ndarray
    cam2world: np.ndarray
    intrinsics: np.ndarray
    heldout: np.ndarray

    def training(self) -> TrainingViews:
        return TrainingViews.of(self.object_id, self.images, self.cam2world, self.intrinsics, self.heldout)


def look_at_origin(position: np.ndarray) -> np.ndarray:
    """Camera at a position, +z towards the origin, +y down as far as the world's +z allows."""
    forward = -position / np.linalg.norm(position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    cam2world = np.eye(4)
    cam2world[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    cam2world[:3, 3] = position
    return cam2world


def toy_object(seed: int, views: int = 6, heldout: int = 1) -> ToyObject:
    """An ellipsoid of seeded radii whose colour depends on the direction from its centre."""
    rng = np.random.default_rng(seed)
    radii, tint = rng.uniform(0.25, 0.42, 3), rng.uniform(0.2, 0.8, 3)
    angles, heights = rng.uniform(0, 2 * np.pi, views), rng.uniform(0.1, 0.9, views)
    flat = np.sqrt(1 - heights**2)
    positions = 1.3 * np.stack([flat * np.cos(angles), flat * np.sin(angles), heights], axis=1)
    cam2world = np.stack([look_at_origin(p) for p in positions])
    focal = 1.02 * SIZE_PX
    matrix = np.array([[focal, 0, SIZE_PX / 2], [0, focal, SIZE_PX / 2], [0, 0, 1]])
    images = np.stack([_trace(pose, matrix, radii, tint) for pose in cam2world])
    chosen = np.zeros(views, bool)
    chosen[:heldout] = True
    intrinsics = np.repeat(matrix[None], views, axis=0)
    return ToyObject(
        f"toy-{seed}", images, cam2world.astype(np.float32), intrinsics.astype(np.float32), chosen
    )


def _trace(cam2world: np.ndarray, matrix: np.ndarray, radii: np.ndarray, tint: np.ndarray) -> np.ndarray:
    v, u = np.meshgrid(np.arange(SIZE_PX) + 0.5, np.arange(SIZE_PX) + 0.5, indexing="ij")
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(matrix).T @ cam2world[:3, :3].T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    # In coordinates divided by the radii the ellipsoid is the unit sphere: |o + t d| = 1.
    o, d = cam2world[:3, 3] / radii, rays / radii
    a, b, c = (d * d).sum(-1), (d * o).sum(-1), (o * o).sum() - 1
    root = b * b - a * c
    hit = root > 0
    t = (-b - np.sqrt(np.maximum(root, 0))) / a
    surface = o + t[..., None] * d
    colour = np.clip(tint + 0.3 * surface, 0, 1)
    return np.round(np.concatenate([colour, hit[..., None]], -1) * hit[..., None] * 255).astype(np.uint8)


def toy_autoencoder() -> Autoencoder:
    return new_autoencoder("tiny", latent_channels=4, factor=4)


def toy_settings() -> JointSettings:
    return JointSettings(
        autoencoder=AutoencoderRecipe(steps=3, batch_size=2, crop_px=0),
        geometry=GEOMETRY,
        resolution=16,
        f_mic=4,
        f_mac=4,
        n_base=2,
        width=16,
        n_samples=8,
        warmup_steps=4,
        warmup_objects=2,
        warmup_pixels=32,
        joint_steps=3,
        joint_objects=2,
        joint_views=2,
        free_points=32,
    )


def toy_fit_settings(**values: object) -> FitSettings:
    small = FitSettings(latent_steps=4, latent_pixels=32, rgb_steps=2, n_samples=8, free_points=16)
    return replace(small, **values)  # type: ignore[arg-type]


def toy_trainer(n_objects: int = 3) -> JointTrainer:
    objects = [toy_object(seed).training() for seed in range(n_objects)]
    return JointTrainer(objects, toy_autoencoder(), toy_settings(), seed=0)


def trained_shared(trainer: JointTrainer) -> SharedComponents:
    """Trains to the end; the result is frozen."""
    while trainer.phase != "done":
        trainer.step()
    return trainer.shared_components().freeze()


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))
