"""What a training or fitting step sees: rays of training views, chosen as a pure function of (seed, step).

Held-out views never enter: `TrainingViews.of` drops them before anything is computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.model.occupancy import latent_masks, occupied_span, visual_hull
from pipeline.model.rays import ray_span, view_rays
from pipeline.model.renderer import Geometry


def seeded_generator(*labels: object) -> torch.Generator:
    """A generator that depends on the labels alone (sha256), the same in every process."""
    digest = hashlib.sha256("\x1f".join(str(label) for label in labels).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(frozen=True)
class TrainingViews:
    """Training views of one object.

    Attributes:
        object_id: The object.
        rgba: [V, H, W, 4] uint8, straight alpha, sRGB.
        cam2world: [V, 4, 4] OpenCV axes.
        intrinsics: [V, 3, 3] pixels.
        has_alpha: Whether alpha tells where the object is.
    """

    object_id: str
    rgba: npt.NDArray[np.uint8]
    cam2world: npt.NDArray[np.float32]
    intrinsics: npt.NDArray[np.float32]
    has_alpha: bool = True

    @staticmethod
    def of(
        object_id: str,
        images: npt.NDArray[np.uint8],
        cam2world: npt.NDArray[np.float32],
        intrinsics: npt.NDArray[np.float32],
        heldout: npt.NDArray[np.bool_],
        has_alpha: bool = True,
    ) -> TrainingViews:
        """Keep the training views of an object.

        Raises:
            ValueError: If no training view is left.
        """
        keep = ~heldout
        if not keep.any():
            raise ValueError(f"object {object_id} has no training view: all {len(heldout)} are held out")
        return TrainingViews(object_id, images[keep], cam2world[keep], intrinsics[keep], has_alpha)

    def rgb(self, device: torch.device) -> Tensor:
        """[V, 3, H, W] in [0, 1], composited over white."""
        return over_white(torch.from_numpy(self.rgba).to(device))


def over_white(rgba: Tensor) -> Tensor:
    """Composite uint8 RGBA [..., H, W, 4] over white: [..., 3, H, W] in [0, 1]."""
    values = rgba.movedim(-1, -3).float() / 255.0
    alpha = values[..., 3:, :, :]
    return values[..., :3, :, :] * alpha + (1.0 - alpha)


@dataclass(frozen=True)
class RayBank:
    """Latent pixels of several objects' training views that can meet the object, by object and view.

    Attributes:
        origins: [P, 3] camera centre of each latent pixel.
        directions: [P, Q, 3] unit directions, Q = supersample².
        near: [P, Q] first distance, world units.
        far: [P, Q] last distance; far <= near for a sub-ray that misses.
        pixel: [P] index into the view's h·w latent pixels.
        view: [P] index into the object's training views.
        object_start: [B + 1] first latent pixel of each object.
        view_start: per object, [V + 1] first latent pixel of each view, counted from the object's first.
        occupancy: [B, G, G, G] what may hold something.
    """

    origins: Tensor
    directions: Tensor
    near: Tensor
    far: Tensor
    pixel: Tensor
    view: Tensor
    object_start: Tensor
    view_start: tuple[Tensor, ...]
    occupancy: Tensor

    @property
    def n_objects(self) -> int:
        """Number of objects B."""
        return len(self.view_start)


def build_ray_bank(
    objects: Sequence[TrainingViews], factor: int, geometry: Geometry, dilate: int, device: torch.device
) -> RayBank:
    """Make the rays of objects, clipped to what their training alphas leave.

    Args:
        objects: Training views per object.
        factor: f, image pixels per latent pixel.
        geometry: Plane box and sampling.
        dilate: Growth of the silhouettes, latent pixels.
        device: Where the tensors live.
    """
    parts = [_object_rays(views, factor, geometry, dilate, device) for views in objects]
    counts = torch.tensor([0] + [len(part["pixel"]) for part in parts])
    return RayBank(
        **{key: torch.cat([part[key] for part in parts]) for key in ("origins", "directions", "near", "far")},
        pixel=torch.cat([part["pixel"] for part in parts]),
        view=torch.cat([part["view"] for part in parts]),
        object_start=counts.cumsum(0),
        view_start=tuple(part["view_start"] for part in parts),
        occupancy=torch.stack([part["occupancy"] for part in parts]),
    )


def _object_rays(
    views: TrainingViews, factor: int, geometry: Geometry, dilate: int, device: torch.device
) -> dict[str, Tensor]:
    n_views, height, width = views.rgba.shape[:3]
    cam2world = torch.from_numpy(views.cam2world).to(device)
    intrinsics = torch.from_numpy(views.intrinsics).to(device)
    if views.has_alpha:
        masks = latent_masks(torch.from_numpy(views.rgba[..., 3]).to(device).float() / 255.0, factor, dilate)
    else:
        masks = torch.ones(n_views, height // factor, width // factor, dtype=torch.bool, device=device)
    occupancy = visual_hull(masks, cam2world, intrinsics, factor, geometry.box_half, geometry.clip_radius)
    origins, directions = view_rays(cam2world, intrinsics, height, width, factor, geometry.supersample)
    n_pixels, n_sub = directions.shape[1:3]
    flat_origins = origins[:, None, None].expand_as(directions).reshape(-1, 3)
    flat_directions = directions.reshape(-1, 3)
    span = ray_span(
        flat_origins, flat_directions, geometry.box_half, geometry.near, geometry.far, geometry.clip_radius
    )
    near, far = occupied_span(occupancy, flat_origins, flat_directions, *span, geometry.box_half)
    near, far = near.view(-1, n_sub), far.view(-1, n_sub)
    hit = (far > near).any(dim=1).nonzero()[:, 0]
    view = hit // n_pixels
    view_start = torch.zeros(n_views + 1, dtype=torch.long)
    view_start[1:] = torch.bincount(view.cpu(), minlength=n_views).cumsum(0)
    return {
        "origins": origins[view],
        "directions": directions.reshape(-1, n_sub, 3)[hit],
        "near": near[hit],
        "far": far[hit],
        "pixel": hit % n_pixels,
        "view": view,
        "view_start": view_start,
        "occupancy": occupancy,
    }


@dataclass(frozen=True)
class RayBatch:
    """Latent pixels of one step.

    Attributes:
        index: [P] into the bank.
        slot: [P] position of the pixel's object in the step's list of objects.
        image: [P] position of the pixel's view in the step's list of views (0 when rays are drawn singly).
        jitter: [P·Q, S] uniform in [0, 1).
    """

    index: Tensor
    slot: Tensor
    image: Tensor
    jitter: Tensor


def draw_pixels(
    bank: RayBank,
    objects: Sequence[int],
    generators: Sequence[torch.Generator],
    n_pixels: int,
    n_samples: int,
) -> RayBatch:
    """Draw latent pixels of objects uniformly, each object with its own generator.

    An object's draw does not depend on which other objects are in the step.
    """
    n_sub = bank.near.shape[1]
    index, jitter = [], []
    for i, generator in zip(objects, generators, strict=True):
        start, end = int(bank.object_start[i]), int(bank.object_start[i + 1])
        index.append(torch.randint(start, max(end, start + 1), (n_pixels,), generator=generator))
        jitter.append(torch.rand(n_pixels * n_sub, n_samples, generator=generator))
    device = bank.near.device
    slot = torch.arange(len(objects), device=device).repeat_interleave(n_pixels)
    return RayBatch(torch.cat(index).to(device), slot, torch.zeros_like(slot), torch.cat(jitter).to(device))


def view_pixels(
    bank: RayBank,
    objects: Sequence[int],
    views: Sequence[Sequence[int]],
    generators: Sequence[torch.Generator],
    n_samples: int,
) -> RayBatch:
    """Take all latent pixels of chosen views of objects; images count through the chosen views in order."""
    n_sub = bank.near.shape[1]
    index, slot, image, jitter = [], [], [], []
    n_images = 0
    for s, (i, chosen, generator) in enumerate(zip(objects, views, generators, strict=True)):
        for view in chosen:
            first = int(bank.object_start[i])
            part = torch.arange(
                first + int(bank.view_start[i][view]), first + int(bank.view_start[i][view + 1])
            )
            index.append(part)
            slot.append(torch.full_like(part, s))
            image.append(torch.full_like(part, n_images))
            jitter.append(torch.rand(len(part) * n_sub, n_samples, generator=generator))
            n_images += 1
    device = bank.near.device
    return RayBatch(*(torch.cat(parts).to(device) for parts in (index, slot, image, jitter)))


def cycle(n: int, count: int, position: int, *labels: object) -> list[int]:
    """Items ``position .. position + count`` of an endless sequence of seeded permutations of range(n)."""
    items: list[int] = []
    epoch, offset = divmod(position, n)
    while len(items) < count:
        order = torch.randperm(n, generator=seeded_generator("cycle", epoch, *labels)).tolist()
        items.extend(order[offset : offset + count - len(items)])
        epoch, offset = epoch + 1, 0
    return items
