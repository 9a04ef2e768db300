"""Reads and renders the pictures of the training section.

What the training recorded needs no torch; reconstructions and base planes are rendered here from the stored
shared components.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline import metrics
from pipeline.report.contact_sheets import most_showing
from pipeline.report.images import to_picture
from pipeline.report.render_records import Picture
from pipeline.report.training_records import (
    BasePlane,
    CoefficientPair,
    Reconstruction,
    Timeline,
    TrainingGallery,
)
from storage.layout import run_folder, shared_key
from storage.shared import parse_safetensors
from storage.store import Store
from storage.views import ViewsStore

if TYPE_CHECKING:
    from pipeline.fit_views import FitRenderer

LOGGER = logging.getLogger(__name__)
RECONSTRUCTIONS: Final = 6
FRAMES: Final = 8
PLANES: Final = 64
VARIED_PLANES: Final = 16  # with so many, two more renderings of each
DEVIATIONS: Final = 2.0
_PAIR_FROM: Final = 64


@dataclass(frozen=True)
class _Codes:
    """Codes of the jointly trained objects: ids, coefficients [N1, M] and mean micro planes."""

    ids: Sequence[str]
    coefficients: NDArray[np.float32]
    mean_micro: NDArray[np.float32] | None


def monitor_record(store: Store, meta: Mapping[str, Any]) -> dict[str, Any]:
    """What the training said of itself in its run folder (`pipeline.train.monitor`); {} where it did not."""
    folder = training_folder(meta)
    try:
        found = json.loads(store.read(f"{folder}/monitor.json")) if folder else {}
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_training_gallery(
    views: ViewsStore, shared_version: str, meta: Mapping[str, Any], renderer: FitRenderer | None
) -> TrainingGallery:
    """Every picture of the training section.

    Args:
        views: Ground truth.
        shared_version: Shared components to show; empty where there are none.
        meta: Their metadata.
        renderer: Renders with them; None leaves out what has to be rendered.

    Raises:
        IntegrityError: Stored bytes are damaged.
    """
    if not shared_version:
        return TrainingGallery()
    timelines = _timelines(views, meta)
    codes = _read_codes(views.store, shared_version)
    if codes is None:
        return TrainingGallery(timelines=timelines)
    return TrainingGallery(
        reconstructions=_reconstructions(views, codes, renderer) if renderer else (),
        timelines=timelines,
        base_planes=_base_planes(views, codes, renderer) if renderer else (),
        pair=_pair(views, codes),
        with_micro=codes.mean_micro is not None,
    )


def training_folder(meta: Mapping[str, Any]) -> str:
    """Key prefix of the run folder of the training that shared components name; "" where they name none."""
    info = meta.get("info")
    name = info.get("train_hash") if isinstance(info, Mapping) else None
    return run_folder("train-shared", str(name)) if name else ""


def _read_codes(store: Store, version: str) -> _Codes | None:
    def tensors(name: str) -> dict[str, NDArray[Any]]:
        key = shared_key(version, name)
        return parse_safetensors(store.read(key), key)

    try:
        ids = json.loads(store.read(shared_key(version, "regime1/ids.json")))
        coefficients = tensors("regime1/codes.safetensors")["coefficients"]
        mean = tensors("mean_code.safetensors")
    except FileNotFoundError:
        return None
    return _Codes(ids, coefficients, mean.get("micro"))


def _timelines(views: ViewsStore, meta: Mapping[str, Any]) -> list[Timeline]:
    """The sheets that the training left, cut up; those of another number of objects are passed over."""
    objects = monitor_record(views.store, meta).get("objects") or []
    folder = f"{training_folder(meta)}/pictures"
    names = [name for name in views.store.list(folder) if name.endswith(".webp")] if objects else []
    height, width = views.plan.header.height, views.plan.header.width
    frames: list[list[tuple[int, Picture]]] = [[] for _ in objects]
    for name in _spread(names, FRAMES):
        sheet = _sheet(views.store.read(f"{folder}/{name}"))
        if sheet.shape != (height * len(objects), width, 3):
            continue
        for own, part in zip(frames, np.split(sheet, len(objects)), strict=True):
            own.append((int(name.partition(".")[0]), part))
    timelines = []
    for one, own in zip(objects, frames, strict=True):
        row, view = views.plan.row_of(str(one["object_id"])), int(one["heldout_view"])
        truth = to_picture(metrics.composite(views.read_views(row, [view]).images)[0])
        timelines.append(Timeline(str(one["object_id"]), view, truth, own))
    return [timeline for timeline in timelines if timeline.frames]


def _sheet(data: bytes) -> Picture:
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as picture:
            return np.asarray(picture.convert("RGB"))
    except OSError as error:
        LOGGER.warning("a picture of the training cannot be read and is left out: %s", error)
        return np.zeros((0, 0, 3), dtype=np.uint8)


def _reconstructions(views: ViewsStore, codes: _Codes, renderer: FitRenderer) -> list[Reconstruction]:
    found = []
    for object_id in _spread(codes.ids, RECONSTRUCTIONS):
        row = views.plan.row_of(object_id)
        view = _showing(views, row, heldout=True)
        if view is None:
            continue
        truth = metrics.composite(views.read_views(row, [view]).images)
        picture = renderer.ceiling(truth)
        if picture is None:
            return []  # RGB is rendered without an autoencoder
        psnr_db = float(metrics.psnr(picture, truth)[0])
        found.append(Reconstruction(object_id, view, psnr_db, to_picture(truth[0]), to_picture(picture[0])))
    return found


def _base_planes(views: ViewsStore, codes: _Codes, renderer: FitRenderer) -> list[BasePlane]:
    """Each base plane alone, on the side that objects use, and as a change of the mean object.

    Alone it has a coefficient of the mean length of the objects' vectors, so that the features are as large
    as those of an object, with the sign of the objects' mean.
    """
    mean, deviation = codes.coefficients.mean(axis=0), codes.coefficients.std(axis=0)
    length = float(np.linalg.norm(codes.coefficients, axis=1).mean())
    cameras = views.values(views.plan.row_of(codes.ids[0]))
    place = most_showing(cameras["cam2world"])
    camera, matrix = cameras["cam2world"][place : place + 1], cameras["intrinsics"][place : place + 1]

    def picture(coefficients: NDArray[Any]) -> Picture:
        return to_picture(renderer.render(codes.mean_micro, coefficients, camera, matrix)[0])

    planes = []
    n_planes = len(mean)
    for k in range(min(n_planes, PLANES)):
        alone, change = np.zeros_like(mean), np.zeros_like(mean)
        alone[k] = length if mean[k] >= 0 else -length
        change[k] = DEVIATIONS * deviation[k]
        varied = n_planes <= VARIED_PLANES
        less, more = (picture(mean - change), picture(mean + change)) if varied else (None, None)
        planes.append(BasePlane(picture(alone), less, more))
    return planes


def _pair(views: ViewsStore, codes: _Codes) -> CoefficientPair | None:
    """The two objects of the largest class whose coefficients lie farthest apart."""
    rows = [views.plan.row_of(object_id) for object_id in codes.ids]
    names = [views.plan.rows[row].class_name for row in rows]
    if codes.coefficients.shape[1] < 2 or len(rows) < 2:
        return None
    largest = max(sorted(set(names)), key=names.count)
    members = [i for i, name in enumerate(names) if name == largest][:_PAIR_FROM]
    members = members if len(members) > 1 else list(range(min(len(rows), _PAIR_FROM)))
    own = codes.coefficients[members].astype(np.float64)
    distance = np.square(own[:, None] - own[None]).sum(axis=2)
    a, b = (members[int(i)] for i in np.unravel_index(int(distance.argmax()), distance.shape))
    if a == b:
        return None
    return CoefficientPair(
        (codes.ids[a], codes.ids[b]),
        (_portrait(views, rows[a]), _portrait(views, rows[b])),
        (codes.coefficients[a], codes.coefficients[b]),
    )


def _portrait(views: ViewsStore, row: int) -> Picture:
    view = _showing(views, row, heldout=False) or 0
    return to_picture(metrics.composite(views.read_views(row, [view]).images)[0])


def _showing(views: ViewsStore, row: int, heldout: bool) -> int | None:
    """The view that shows most, among all or among the held-out ones."""
    cameras = views.values(row)
    numbers = np.flatnonzero(cameras["heldout"] | (not heldout))
    return int(numbers[most_showing(cameras["cam2world"][numbers])]) if len(numbers) else None


def _spread(items: Sequence[str], n: int) -> list[str]:
    """At most n items, evenly spread, the ends included."""
    if len(items) <= n:
        return list(items)
    return [items[round(index * (len(items) - 1) / (n - 1))] for index in range(n)]
