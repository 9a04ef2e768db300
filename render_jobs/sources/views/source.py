"""A source of views that exist already, in any layout: lists objects, reads images, moves their cameras.

The fingerprint of an object is a hash of its files of cameras and of the sizes of its images in bytes.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt

from render_jobs.cameras import seed_for
from render_jobs.config import RenderConfig
from render_jobs.sources.base import ObjectEntry, ObjectLocation, ViewsSize
from render_jobs.sources.names import is_text, readable_name
from render_jobs.sources.views.files import ObjectFolder, UnsafeReferenceError, ViewsFolder
from render_jobs.sources.views.images import (
    EXTENSIONS,
    MAX_IMAGE_BYTES,
    BadImageError,
    decode,
    image_size,
    resized,
)
from render_jobs.sources.views.layout import FoundObject, ObjectFrames, ViewsLayout
from render_jobs.sources.views.selection import choose_views
from render_jobs.sources.views.world import moved_cameras, world_from_cameras
from render_jobs.transforms import Frame
from render_jobs.worker import RenderFailure
from storage.errors import UsageError
from storage.records import Failure, ObjectViews

LOGGER = logging.getLogger(__name__)

# Aliases, because the class below has a method named list.
Entries = list[ObjectEntry]
Warnings = list[str]
FloatArray = npt.NDArray[np.float32]

_REMOTE_READERS = 16


class ImportedViews:
    """Views in files.

    Args:
        name: Kind of source.
        path: Local folder or fsspec URL.
        layout: How the files are arranged.
        normalize: See `SourceSpec`; None lets the layout, and an export of fpipe's, decide.
    """

    def __init__(
        self, name: str, path: str, layout: ViewsLayout, normalize: Literal["cameras", "none"] | None
    ) -> None:
        self.name = name
        self._folder = ViewsFolder(path)
        self._layout = layout
        self._normalize = normalize
        self._n_frames: dict[str, int] = {}

    def list(self, classes: dict[str, int | None], seed: int) -> Entries:
        """Lists objects, class by class in the order asked for; see `Source.list`."""
        by_class: dict[str, list[FoundObject]] = {}
        for found in self._layout.objects(self._folder):
            by_class.setdefault(found.class_name, []).append(found)
        chosen: list[FoundObject] = []
        for name, count in (classes or dict.fromkeys(by_class)).items():
            if name not in by_class:
                known = ", ".join(by_class)
                raise UsageError(
                    f"source {self.name}: no class {name!r} in {self._folder.path}; classes there: {known}"
                )
            chosen += self._sample(name, by_class[name], count, seed)
        if self._folder.local:
            return [self._entry(found) for found in chosen]
        with ThreadPoolExecutor(_REMOTE_READERS) as pool:
            return [*pool.map(self._entry, chosen)]

    def measure(self, entries: Sequence[ObjectEntry]) -> ViewsSize:
        """Returns number and size of the views; see `ViewsSource.measure`."""
        counts = Counter(n for entry in entries if (n := self._n_frames.get(entry.location)))
        if not counts:
            raise UsageError(
                f"source {self.name}: none of the {len(entries)} objects in {self._folder.path} has readable"
                f" cameras; the first: {self._first_problem(entries)}"
            )
        n_views = max(counts, key=lambda n: (counts[n], -n))
        problem = ""
        for entry in entries:
            if entry.location not in self._n_frames:
                continue
            try:
                folder = self._folder.object(entry.location)
                frame = self._frames(folder).frames[0]
                width, height = image_size(_image_bytes(folder, frame))
            except (RenderFailure, BadImageError) as error:
                problem = problem or f"{entry.object_id}: {error}"
                continue
            return ViewsSize(n_views, height, width)
        raise UsageError(f"source {self.name}: no object's first image can be read; {problem}")

    def load(self, entry: ObjectLocation, config: RenderConfig) -> tuple[ObjectViews, dict[str, Any]]:
        """Reads the views of one object; see `ViewsSource.load`."""
        try:
            return self._load(entry, config)
        except RenderFailure as error:
            if error.failure.kind in {"missing_file", "missing_image"}:
                self._folder.check_reachable()
            raise

    def _load(self, entry: ObjectLocation, config: RenderConfig) -> tuple[ObjectViews, dict[str, Any]]:
        folder = self._folder.object(entry.location)
        found = self._frames(folder)
        total = len(found.frames)
        if total < config.views:
            _fail("too_few_views", f"{entry.location} has {total} views, {config.views} are wanted")
        try:
            frames, heldout = choose_views(
                found.frames,
                config.views,
                config.heldout_fraction,
                seed_for(config.seed, entry.object_id, "heldout"),
            )
        except ValueError as error:
            _fail("bad_cameras", f"{entry.location}: {error}")
        warnings = [f"{total} views, {config.views} taken"] if total > config.views else []
        images, matrices, has_alpha = _read_images(folder, frames, config, warnings)
        cam2world, mesh_to_world, normalize = self._world(folder, found, frames, matrices, config)
        for warning in warnings:
            LOGGER.debug("%s: %s", entry.object_id, warning)
        info = {
            "n_frames": total,
            "normalize": normalize,
            "cameras_sha256": hashlib.sha256(found.data).hexdigest(),
            "warnings": warnings,
        }
        return ObjectViews(images, cam2world, matrices, heldout, mesh_to_world, has_alpha), info

    def _sample(
        self, class_name: str, found: Sequence[FoundObject], count: int | None, seed: int
    ) -> Sequence[FoundObject]:
        if count is None:
            return found
        if count > len(found):
            raise UsageError(
                f"source {self.name}: {count} of class {class_name} asked for, {len(found)} are there"
            )
        order = np.random.default_rng([seed, seed_for(0, class_name, "objects")]).permutation(len(found))
        return [found[i] for i in sorted(order[:count].tolist())]

    def _entry(self, found: FoundObject) -> ObjectEntry:
        """Describes one object; one that is broken is listed too, and fails when its turn comes."""
        folder = self._folder.object(found.location)
        digest = hashlib.sha256()
        object_id = None
        try:
            frames = self._frames(folder)
        except RenderFailure as error:
            digest.update(str(error).encode())
        else:
            object_id = frames.object_id
            self._n_frames[folder.location] = len(frames.frames)
            digest.update(frames.data)
            for frame in frames.frames:
                digest.update(f"{frame.name}\0{_listed_size(folder, frame)}\n".encode())
        name = self._folder.name if found.location == "." else found.location.rsplit("/", 1)[-1]
        class_name, name = (
            text if is_text(text) else readable_name(text) for text in (found.class_name, name)
        )
        prefixed = name if name.startswith(f"{class_name}-") else f"{class_name}-{name}"
        return ObjectEntry(object_id or prefixed, class_name, folder.location, digest.hexdigest())

    def _first_problem(self, entries: Sequence[ObjectEntry]) -> str:
        try:
            self._frames(self._folder.object(entries[0].location))
        except RenderFailure as error:
            return f"{entries[0].object_id}: {error}"
        return "its split leaves no views"

    def _frames(self, folder: ObjectFolder) -> ObjectFrames:
        try:
            found = self._layout.frames(folder)
        except FileNotFoundError as error:
            _fail("missing_file", str(error))
        except UnsafeReferenceError as error:
            _fail("unsafe_reference", str(error))
        except PermissionError as error:
            _fail("missing_file", f"{folder.location}: its cameras cannot be read: {error.strerror}")
        except ValueError as error:  # bad cameras, or a file that is too large
            _fail("bad_cameras", f"{folder.location}: {error}")
        return found

    def _world(
        self,
        folder: ObjectFolder,
        found: ObjectFrames,
        frames: Sequence[Frame],
        matrices: FloatArray,
        config: RenderConfig,
    ) -> tuple[FloatArray, FloatArray, str]:
        """Returns cam2world in our world, mesh_to_world, and how they were found."""
        cam2world = np.stack([frame.cam2world for frame in frames])
        to_world = np.eye(4)
        decided = "none" if found.mesh_to_world is not None else self._layout.normalize
        normalize = self._normalize or decided
        if normalize == "cameras":
            half_px = 0.5 * np.array([config.width, config.height])
            half_angle = np.arctan(half_px / matrices[:, [0, 1], [0, 1]]).min(axis=1)
            try:
                to_world = world_from_cameras(cam2world, half_angle)
            except ValueError as error:
                _fail(
                    "bad_cameras", f"{folder.location}: {error}; source.normalize=none takes them as they are"
                )
            cam2world = moved_cameras(to_world, cam2world)
        before = np.eye(4) if found.mesh_to_world is None else found.mesh_to_world
        return cam2world.astype(np.float32), (to_world @ before).astype(np.float32), normalize


def _fail(kind: str, reason: str) -> NoReturn:
    raise RenderFailure(Failure(kind, reason))


def _read_images(
    folder: ObjectFolder, frames: Sequence[Frame], config: RenderConfig, warnings: Warnings
) -> tuple[npt.NDArray[np.uint8], FloatArray, bool]:
    """Returns images u8 [V, H, W, 4], intrinsics f32 [V, 3, 3], and whether all images have alpha."""
    target = (config.width, config.height)
    images = np.empty((len(frames), config.height, config.width, 4), dtype=np.uint8)
    matrices = np.empty((len(frames), 3, 3), dtype=np.float32)
    alphas = np.zeros(len(frames), dtype=np.bool_)
    n_resized = 0
    for i, frame in enumerate(frames):
        try:
            image = decode(_image_bytes(folder, frame))
        except BadImageError as error:
            _fail("bad_image", f"{folder.location}: frame {frame.name}: {error}")
        size = (image.rgba.shape[1], image.rgba.shape[0])
        for what, shape in (("image", size), ("w and h", frame.lens.size_px or size)):
            if not _same_shape(shape, target):
                reason = (
                    f"{what} {shape[0]}×{shape[1]} px cannot become {target[0]}×{target[1]} px: other shape"
                )
                _fail("image_size", f"{folder.location}: frame {frame.name}: {reason}")
        n_resized += size != target
        images[i] = resized(image.rgba, *target)
        alphas[i] = image.has_alpha
        matrices[i] = frame.lens.matrix(size, target)
    if n_resized:
        warnings.append(f"{n_resized} of {len(frames)} images resized to {target[0]}×{target[1]} px")
    if alphas.any() and not alphas.all():
        warnings.append(
            f"{int((~alphas).sum())} of {len(frames)} images have no alpha: all composited on white"
        )
        images[alphas] = _on_white(images[alphas])
    return images, matrices, bool(alphas.all())


def _same_shape(size: tuple[int, int], target: tuple[int, int]) -> bool:
    """Whether resizing squeezes an image by less than half a pixel."""
    return (
        round(size[0] * target[1] / size[1]) == target[0] or round(size[1] * target[0] / size[0]) == target[1]
    )


def _on_white(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    alpha = images[..., 3:].astype(np.float32) / 255.0
    opaque = images.copy()
    opaque[..., :3] = (images[..., :3] * alpha + 255.0 * (1.0 - alpha) + 0.5).astype(np.uint8)
    opaque[..., 3] = 255
    return opaque


def _image_bytes(folder: ObjectFolder, frame: Frame) -> bytes:
    try:
        name = _found_name(folder, frame)
        if name is None:
            _fail(
                "missing_image", f"{folder.location}: frame {frame.name or '(without file_path)'} is missing"
            )
        return folder.read(name, MAX_IMAGE_BYTES)
    except UnsafeReferenceError as error:
        _fail("unsafe_reference", f"{folder.location}: frame {error}")
    except PermissionError as error:
        _fail("missing_image", f"{folder.location}: frame {frame.name} cannot be read: {error.strerror}")
    except ValueError as error:
        _fail("bad_image", f"{folder.location}: frame {error}")


def _found_name(folder: ObjectFolder, frame: Frame) -> str | None:
    """Returns the name of a frame's image, which the original NeRF data writes without its extension."""
    if not frame.name:
        return None
    candidates = (frame.name, *(frame.name + extension for extension in EXTENSIONS))
    return next((name for name in candidates if folder.size(name) is not None), None)


def _listed_size(folder: ObjectFolder, frame: Frame) -> int | None:
    try:
        name = _found_name(folder, frame)
        return None if name is None else folder.size(name)
    except (UnsafeReferenceError, PermissionError):
        return None
