"""Fixed views of a few objects, drawn as the training goes on, for people to look at.

Nothing reads these pictures back: held-out views among them are never measured, and no random number is
drawn, so that a training has the same bits with and without them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.metrics import composite, psnr
from pipeline.model.shared import SharedComponents
from pipeline.report.contact_sheets import most_showing
from pipeline.train.joint import JointTrainer
from storage.views import ViewsStore

Picture = NDArray[np.uint8]
_WEBP_QUALITY = 90


@dataclass(frozen=True)
class FixedObject:
    """One object that is drawn.

    Attributes:
        index: Its position among the trainer's objects.
        object_id: Its id.
        views: Numbers of its training view and, where it has one, of its held-out view.
        truth: [len(views), H, W, 3] in [0, 1], over white.
        cam2world: [len(views), 4, 4].
        intrinsics: [len(views), 3, 3] pixels.
    """

    index: int
    object_id: str
    views: tuple[int, ...]
    truth: NDArray[np.float32]
    cam2world: NDArray[np.float32]
    intrinsics: NDArray[np.float32]


@dataclass(frozen=True)
class Drawn:
    """One object at one step: pictures u8 [H, W, 3]; `render` and `heldout` are None before there are planes.

    The figures are of the training view alone.
    """

    object_id: str
    truth: Picture
    reconstruction: Picture
    render: Picture | None
    heldout_truth: Picture | None
    heldout: Picture | None
    psnr_db: dict[str, float]


def choose_fixed(store: ViewsStore, rows: Sequence[int], count: int) -> list[FixedObject]:
    """Choose objects evenly over rows, and of each the two views that show most.

    Args:
        store: The views.
        rows: Rows of the trainer's objects, in its order.
        count: Objects wanted.
    """
    indices = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)).tolist()
    return [_fixed(store, index, rows[index]) for index in indices]


def _fixed(store: ViewsStore, index: int, row: int) -> FixedObject:
    cameras = store.values(row)
    views = []
    for is_heldout in (False, True):
        numbers = np.flatnonzero(cameras["heldout"] == is_heldout)
        if len(numbers):
            views.append(int(numbers[most_showing(cameras["cam2world"][numbers])]))
    own = store.read_views(row, views)
    truth = composite(own.images)
    object_id = store.plan.rows[row].object_id
    return FixedObject(index, object_id, tuple(views), truth, own.cam2world, own.intrinsics)


@torch.no_grad()
def draw(trainer: JointTrainer, fixed: Sequence[FixedObject], with_planes: bool) -> list[Drawn]:
    """Draw every fixed object with the components as they are now.

    Rendered without importance sampling, which costs two thirds of the time and changes a thumbnail little.
    """
    shared = trainer.shared_components()
    shared = replace(shared, geometry=replace(shared.geometry, n_fine=0))
    return [_draw(trainer, shared, one, with_planes) for one in fixed]


def _draw(trainer: JointTrainer, shared: SharedComponents, fixed: FixedObject, with_planes: bool) -> Drawn:
    def tensor(array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.asarray(array, dtype=np.float32)).to(trainer.device)

    own = fixed.truth[:1]
    rebuilt = _channels_last(shared.reconstruct(tensor(np.moveaxis(own, 3, 1))))
    figures = {"reconstruction": float(psnr(rebuilt, own)[0])}
    rendered = None
    if with_planes:
        micro, coefficients = trainer.code(fixed.index)
        cameras = tensor(fixed.cam2world), tensor(fixed.intrinsics)
        rendered = _channels_last(shared.render_rgb(micro, coefficients, *cameras))
        figures["render"] = float(psnr(rendered[:1], own)[0])
    has_heldout = len(fixed.views) > 1
    return Drawn(
        fixed.object_id,
        _picture(own[0]),
        _picture(rebuilt[0]),
        None if rendered is None else _picture(rendered[0]),
        _picture(fixed.truth[1]) if has_heldout else None,
        _picture(rendered[1]) if rendered is not None and has_heldout else None,
        figures,
    )


def sheet(drawn: Sequence[Drawn]) -> bytes | None:
    """The held-out renders of one step below each other, as WebP; None before there are any."""
    pictures = [one.heldout for one in drawn if one.heldout is not None]
    if not pictures:
        return None
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(pictures)).save(buffer, "WEBP", quality=_WEBP_QUALITY, method=4)
    return buffer.getvalue()


def _channels_last(views: torch.Tensor) -> NDArray[np.float32]:
    return views.permute(0, 2, 3, 1).float().cpu().numpy()


def _picture(image: NDArray[np.float32]) -> Picture:
    return np.asarray(np.rint(np.clip(image, 0, 1) * 255), dtype=np.uint8)
