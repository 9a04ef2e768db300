"""The shared components: autoencoder, base planes, renderer, background latent; frozen and named by content.

Stored under ``shared/<shared_version>/`` (keys are created once, never replaced; ``shared.json`` comes last,
so that a version exists whole or not at all)::

    vae/                          diffusers folder of the autoencoder; identity.json alone for RGB
    base_planes.safetensors       base_planes [M, 3, F_mac, K, K]; M = F_mac = 0 without base planes
    renderer.safetensors          parameters of the MLP
    background_latent.safetensors background_latent [C, h, w]
    mean_code.safetensors         mean micro planes and coefficients of regime 1: where new fits start
    regime1/ids.json, codes.safetensors   codes of the jointly trained objects
    shared.json                   geometry, sizes, training config
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.model.autoencoder import Autoencoder, load_autoencoder
from pipeline.model.geometry import Geometry
from pipeline.model.identity import load_identity
from pipeline.model.planes import fuse
from pipeline.model.renderer import Renderer, render_views
from render_jobs.swept_folder import SweptFolder
from storage.documents import canonical_json, check_schema, dump_document, parse_unsealed, plain
from storage.errors import IntegrityError, UsageError
from storage.layout import shared_key
from storage.store import Store

SCHEMA_VERSION = "1.0"
_DECODE_BATCH = 32


@dataclass(frozen=True)
class RegimeOneCodes:
    """Codes of jointly trained objects.

    Attributes:
        ids: Their object ids.
        micro: [N1, 3, F_mic, K, K], or None without micro planes.
        coefficients: [N1, M].
    """

    ids: tuple[str, ...]
    micro: npt.NDArray[np.float32] | None
    coefficients: npt.NDArray[np.float32]

    def of(self, object_id: str) -> tuple[npt.NDArray[np.float32] | None, npt.NDArray[np.float32]] | None:
        """Code of one object, or None if it was not trained jointly."""
        if object_id not in self.ids:
            return None
        i = self.ids.index(object_id)
        return (None if self.micro is None else self.micro[i]), self.coefficients[i]

    @staticmethod
    def merge(parts: list[RegimeOneCodes]) -> RegimeOneCodes:
        """Join the codes of all ranks, sorted by object id: the order does not depend on the ranks."""
        ids = [object_id for part in parts for object_id in part.ids]
        order = sorted(range(len(ids)), key=ids.__getitem__)
        micro = [part.micro for part in parts if part.micro is not None]
        return RegimeOneCodes(
            tuple(ids[i] for i in order),
            np.concatenate(micro)[order] if micro else None,
            np.concatenate([part.coefficients for part in parts])[order],
        )


@dataclass(frozen=True)
class SharedComponents:
    """What all objects share.

    Attributes:
        autoencoder: E and D with their normaliser.
        base_planes: [M, 3, F_mac, K, K]; M = F_mac = 0 where all planes are micro planes.
        renderer: The MLP.
        background_latent: [C, h, w] latent of white.
        geometry: Plane box and ray sampling.
        f_mic: Micro plane channels, 0 for ULW.
        size_px: Height and width of the views that it was trained on.
        mean_micro: [3, F_mic, K, K] mean of the jointly trained micro planes, or None for ULW.
        mean_coefficients: [M] mean of the jointly trained coefficients.
    """

    autoencoder: Autoencoder
    base_planes: Tensor
    renderer: Renderer
    background_latent: Tensor
    geometry: Geometry
    f_mic: int
    size_px: tuple[int, int]
    mean_micro: Tensor | None
    mean_coefficients: Tensor
    extra: Mapping[str, Any] = field(default_factory=dict)

    def freeze(self, device: str | torch.device = "cpu") -> SharedComponents:
        """Move to a device and turn gradients off; the modules are changed in place."""
        target = torch.device(device)
        for module in (self.autoencoder, self.renderer):
            module.to(target).eval().requires_grad_(False)
        return SharedComponents(
            self.autoencoder,
            self.base_planes.detach().to(target),
            self.renderer,
            self.background_latent.detach().to(target),
            self.geometry,
            self.f_mic,
            self.size_px,
            None if self.mean_micro is None else self.mean_micro.detach().to(target),
            self.mean_coefficients.detach().to(target),
            self.extra,
        )

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """RGB in [0, 1] of latents [V, C, h, w], in batches of a fixed size."""
        parts = [self.autoencoder.decode(part) for part in torch.split(latents, _DECODE_BATCH)]
        return torch.cat(parts).clamp(0.0, 1.0)

    @torch.no_grad()
    def reconstruct(self, rgb: Tensor) -> Tensor:
        """Views [V, 3, H, W] after the autoencoder alone, D(E(x)): the ceiling of any rendering."""
        return self.decode(
            torch.cat([self.autoencoder.encode(part) for part in torch.split(rgb, _DECODE_BATCH)])
        )

    @torch.no_grad()
    def render_rgb(
        self, micro: Tensor | None, coefficients: Tensor, cam2world: Tensor, intrinsics: Tensor
    ) -> Tensor:
        """Views [V, 3, H, W] in [0, 1] of one object, from its code alone.

        Args:
            micro: [3, F_mic, K, K] or None.
            coefficients: [M].
            cam2world: [V, 4, 4] OpenCV axes.
            intrinsics: [V, 3, 3] pixels, for views of ``size_px``.
        """
        planes = fuse(None if micro is None else micro[None], coefficients[None], self.base_planes)[0]
        return self.render_planes(planes, cam2world, intrinsics)

    @torch.no_grad()
    def render_planes(self, planes: Tensor, cam2world: Tensor, intrinsics: Tensor) -> Tensor:
        """Views [V, 3, H, W] in [0, 1] of one object, from its fused planes [3, F, K, K]."""
        factor = self.autoencoder.factor
        background, geometry = self.background_latent, self.geometry
        latents = render_views(
            self.renderer, planes, cam2world, intrinsics, self.size_px, factor, geometry, background
        )
        return self.decode(latents)

    def meta(self) -> dict[str, Any]:
        """Sizes and conventions as stored in ``shared.json``."""
        M, _, f_mac, K, _ = self.base_planes.shape
        return {
            "schema_version": SCHEMA_VERSION,
            **self.geometry.to_dict(),
            "plane_resolution": K,
            "plane_order": ["xy", "xz", "yz"] if self.geometry.axes == "xyz" else ["xy", "xz", "zx"],
            "f_mic": self.f_mic,
            "f_mac": f_mac,
            "n_base": M,
            "latent_shape": list(self.background_latent.shape),
            "latent_channels": self.autoencoder.latent_channels,
            "factor": self.autoencoder.factor,
            "hidden_width": self.renderer.width,
            "size_px": list(self.size_px),
            **self.extra,
        }

    def save(self, store: Store, codes: RegimeOneCodes, info: Mapping[str, Any] | None = None) -> str:
        """Write everything under the version that its content has.

        Args:
            store: The dataset.
            codes: Codes of all jointly trained objects.
            info: Further entries of ``shared.json`` that do not count for the version, such as times.

        Returns:
            shared_version: 16 hex digits of the sha256 over all files. The same content gives the same
            version.
        """
        files = self._files(codes)
        meta = {**self.meta(), "n_regime1": len(codes.ids)}
        files["meta"] = canonical_json(meta)
        digest = hashlib.sha256()
        for name in sorted(files):
            digest.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
        version = digest.hexdigest()[:16]
        del files["meta"]
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        document = plain({**meta, "shared_version": version, "files": hashes, "info": dict(info or {})})
        for name, data in files.items():
            store.create(shared_key(version, name), data)
        store.create(shared_key(version, "shared.json"), dump_document(document, readable=True))
        return version

    def _files(self, codes: RegimeOneCodes) -> dict[str, bytes]:
        from safetensors.torch import save

        mean = {"coefficients": self.mean_coefficients.float().cpu().contiguous()}
        if self.mean_micro is not None:
            mean["micro"] = self.mean_micro.float().cpu().contiguous()
        own = {"coefficients": torch.from_numpy(np.ascontiguousarray(codes.coefficients))}
        if codes.micro is not None:
            own["micro"] = torch.from_numpy(np.ascontiguousarray(codes.micro))
        renderer = {
            name: value.detach().cpu().contiguous() for name, value in self.renderer.state_dict().items()
        }
        files = {
            "base_planes.safetensors": save({"base_planes": self.base_planes.detach().cpu().contiguous()}),
            "renderer.safetensors": save(renderer),
            "background_latent.safetensors": save(
                {"background_latent": self.background_latent.cpu().contiguous()}
            ),
            "mean_code.safetensors": save(mean),
            "regime1/codes.safetensors": save(own),
            "regime1/ids.json": json.dumps(list(codes.ids)).encode(),
        }
        with _vae_folder() as folder:
            self.autoencoder.save(folder)
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    files[f"vae/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
        return files


@contextlib.contextmanager
def _vae_folder() -> Iterator[Path]:
    """Yields a temporary folder, which goes with this process too: of a lost node it would stay for good."""
    with SweptFolder(prefix="fpipe-vae-") as swept:
        folder = swept.path / "vae"
        folder.mkdir()
        yield folder


def load_shared(store: Store, version: str, device: str | torch.device = "cpu") -> SharedComponents:
    """Load and freeze shared components.

    Raises:
        UsageError: No such version in this dataset.
        SchemaError: Unknown major schema version.
        IntegrityError: A file does not have the content that ``shared.json`` names.
    """
    meta = read_meta(store, version)
    with _vae_folder() as folder:
        for name in meta["files"]:
            if name.startswith("vae/"):
                (folder / _file_name(name, version)).write_bytes(_read(store, meta, name))
        autoencoder = load_identity(folder) or load_autoencoder(folder)
    renderer = Renderer(meta["f_mic"] + meta["f_mac"], meta["latent_channels"], meta["hidden_width"])
    renderer.load_state_dict(_tensors(store, meta, "renderer.safetensors"))
    mean = _tensors(store, meta, "mean_code.safetensors")
    names = Geometry.__dataclass_fields__
    return SharedComponents(
        autoencoder=autoencoder,
        base_planes=_tensors(store, meta, "base_planes.safetensors")["base_planes"],
        renderer=renderer,
        background_latent=_tensors(store, meta, "background_latent.safetensors")["background_latent"],
        geometry=Geometry(**{name: meta[name] for name in names if name in meta}),
        f_mic=meta["f_mic"],
        size_px=(meta["size_px"][0], meta["size_px"][1]),
        mean_micro=mean.get("micro"),
        mean_coefficients=mean["coefficients"],
    ).freeze(device)


def _file_name(name: str, version: str) -> str:
    """Returns the name of an autoencoder's file within its folder; a record may not lead out of it."""
    file = name.removeprefix("vae/")
    if "/" in file or file in {"", ".", ".."}:
        key = f"shared/{version}/shared.json"
        raise IntegrityError(f"{key}: {name!r} is no file of an autoencoder", key=key)
    return file


def load_regime_one(store: Store, version: str) -> RegimeOneCodes:
    """Load the codes of the jointly trained objects. Raises as `load_shared`."""
    meta = read_meta(store, version)
    codes = _tensors(store, meta, "regime1/codes.safetensors")
    micro = codes["micro"].numpy() if "micro" in codes else None
    ids = json.loads(_read(store, meta, "regime1/ids.json"))
    return RegimeOneCodes(tuple(ids), micro, codes["coefficients"].numpy())


def read_meta(store: Store, version: str) -> dict[str, Any]:
    """Read ``shared.json``. Raises as `load_shared`."""
    key = shared_key(version, "shared.json")
    try:
        meta = parse_unsealed(store.read(key), key)
    except FileNotFoundError as error:
        raise UsageError(f"no shared components {version} in {store.url}: run fpipe train-shared") from error
    check_schema(str(meta["schema_version"]), key)
    return meta


def _read(store: Store, meta: dict[str, Any], name: str) -> bytes:
    key = shared_key(meta["shared_version"], name)
    data = store.read(key)
    if hashlib.sha256(data).hexdigest() != meta["files"][name]:
        raise IntegrityError(f"{key}: content differs from what shared.json names", key=key)
    return data


def _tensors(store: Store, meta: dict[str, Any], name: str) -> dict[str, Tensor]:
    from safetensors.torch import load

    return dict(load(_read(store, meta, name)))
