"""What bench_fit fits, as one ``.npz`` file: views, frozen shared components, settings. Needs torch alone.

Arrays: ``rgba`` u8 [N, V, H, W, 4], ``cam2world`` f32 [N, V, 4, 4], ``intrinsics`` f32 [N, V, 3, 3],
``heldout`` bool [N, V]; ``base_planes``, ``background_latent``, ``mean_coefficients`` and ``mean_micro`` (if
any) as in `SharedComponents`; ``renderer.*``, ``vae.*``, ``latent_scale`` and ``latent_shift``; ``meta``, a
JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.fit.pace import Stopping
from pipeline.fit.settings import FitSettings
from pipeline.model.autoencoder import Autoencoder
from pipeline.model.geometry import Geometry
from pipeline.model.renderer import Renderer
from pipeline.model.shared import SharedComponents
from pipeline.train.schedule import Decay, Rates
from pipeline.train.training_views import TrainingViews
from tests.benchmarks.plain_vae import CONFIG_NAMES, PlainVae

FORMAT = 1
VIEW_ARRAYS = ("rgba", "cam2world", "intrinsics", "heldout")


@dataclass(frozen=True)
class CaseObject:
    """All views of one object; held-out ones serve the curves only."""

    object_id: str
    class_name: str
    rgba: NDArray[np.uint8]
    cam2world: NDArray[np.float32]
    intrinsics: NDArray[np.float32]
    heldout: NDArray[np.bool_]

    def training(self) -> TrainingViews:
        """What recipes see."""
        return TrainingViews.of(self.object_id, self.rgba, self.cam2world, self.intrinsics, self.heldout)


@dataclass(frozen=True)
class FitCase:
    """One benchmark's input.

    Attributes:
        shared: Frozen shared components.
        objects: What is fitted; none of them was trained jointly.
        settings: Our fit's, where no preset is read.
        info: How the file was made, for the result's record.
    """

    shared: SharedComponents
    objects: list[CaseObject]
    settings: FitSettings
    info: dict[str, Any] = field(default_factory=dict)


def save_case(path: Path, case: FitCase) -> None:
    """Write the file."""
    shared, autoencoder, objects = case.shared, case.shared.autoencoder, case.objects
    vae = autoencoder.vae
    meta = {
        "format": FORMAT,
        "ids": [own.object_id for own in objects],
        "classes": [own.class_name for own in objects],
        "vae": {name: getattr(vae.config, name) for name in CONFIG_NAMES},
        "unshuffle": autoencoder.unshuffle,
        "geometry": asdict(shared.geometry),
        "f_mic": shared.f_mic,
        "size_px": shared.size_px,
        "settings": asdict(case.settings),
        "info": case.info,
    }
    tensors = {
        "base_planes": shared.base_planes,
        "background_latent": shared.background_latent,
        "mean_coefficients": shared.mean_coefficients,
        "latent_scale": autoencoder.latent_scale,
        "latent_shift": autoencoder.latent_shift,
        **{f"renderer.{name}": value for name, value in shared.renderer.state_dict().items()},
        **{f"vae.{name}": value for name, value in vae.state_dict().items()},
    }
    if shared.mean_micro is not None:
        tensors["mean_micro"] = shared.mean_micro
    arrays = {name: value.detach().cpu().numpy() for name, value in tensors.items()}
    for name in VIEW_ARRAYS:
        arrays[name] = np.stack([getattr(own, name) for own in objects])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(file, meta=np.array(json.dumps(meta)), **arrays)


def load_case(path: Path, device: str | torch.device = "cpu") -> FitCase:
    """Read the file.

    Raises:
        ValueError: Its format is another one, or its settings are those of another version of fpipe.
    """
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    meta = json.loads(str(arrays.pop("meta")))
    if meta["format"] != FORMAT:
        raise ValueError(f"{path} has format {meta['format']}, this version reads {FORMAT}: make it again")
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items() if value.dtype == np.float32}
    autoencoder = Autoencoder(PlainVae(meta["vae"]), meta["unshuffle"])
    autoencoder.vae.load_state_dict(dict(_below(tensors, "vae.")))
    autoencoder.latent_scale.copy_(tensors["latent_scale"])
    autoencoder.latent_shift.copy_(tensors["latent_shift"])
    params = dict(_below(tensors, "renderer."))
    renderer = Renderer(
        params["hidden.weight"].shape[1], len(params["out.bias"]) - 1, len(params["hidden.bias"])
    )
    renderer.load_state_dict(params)
    shared = SharedComponents(
        autoencoder=autoencoder,
        base_planes=tensors["base_planes"],
        renderer=renderer,
        background_latent=tensors["background_latent"],
        geometry=Geometry(**meta["geometry"]),
        f_mic=meta["f_mic"],
        size_px=(meta["size_px"][0], meta["size_px"][1]),
        mean_micro=tensors.get("mean_micro"),
        mean_coefficients=tensors["mean_coefficients"],
    ).freeze(device)
    objects = [
        CaseObject(
            object_id,
            class_name,
            *(arrays[name][i] for name in VIEW_ARRAYS),
        )
        for i, (object_id, class_name) in enumerate(zip(meta["ids"], meta["classes"], strict=True))
    ]
    return FitCase(shared, objects, _settings(meta["settings"], path), meta["info"])


def _below(tensors: Mapping[str, torch.Tensor], prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in tensors.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), value


def _settings(values: Mapping[str, Any], path: Path) -> FitSettings:
    kinds = {"rates": Rates, "decay": Decay, "stopping": Stopping}
    made = {name: _made(kinds.get(name.rsplit("_", 1)[-1]), value) for name, value in values.items()}
    try:
        return FitSettings(**made)
    except TypeError as error:
        raise ValueError(f"{path} is of another version of fpipe ({error}): make it again") from error


def _made(kind: Any, value: Any) -> Any:
    if kind is None or not isinstance(value, dict):
        return tuple(value) if isinstance(value, list) else value
    return kind(**{name: tuple(own) if isinstance(own, list) else own for name, own in value.items()})
