"""Loading of an AutoencoderKL from elsewhere: diffusers makes small ones here, in the real ones' format."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.model.autoencoder import (
    Autoencoder,
    _is_stable_diffusions,
    load_autoencoder,
    new_autoencoder,
)
from pipeline.model.vae_files import autoencoder_kl, load_vae
from storage.errors import ConfigError, EnvironmentProblem

WEIGHTS = "diffusion_pytorch_model.safetensors"
HALF = "diffusion_pytorch_model.fp16.safetensors"


def small_vae(widths: tuple[int, ...] = (8, 8, 16, 16), **changes: Any) -> Any:
    """Stable Diffusion's VAE with fewer channels: same config keys, attention and quantising convolutions."""
    settings = {
        "act_fn": "silu",
        "block_out_channels": widths,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 4,
        "out_channels": 3,
        "sample_size": 256,
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        **changes,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return autoencoder_kl()(**settings)


def some_rgb(side_px: int = 32) -> torch.Tensor:
    return torch.rand(2, 3, side_px, side_px, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "sd-vae"
    small_vae().save_pretrained(path)
    return path


def assert_same(loaded: Any, expected: Any) -> None:
    values = expected.state_dict()
    assert loaded.state_dict().keys() == values.keys()
    assert all(torch.equal(value, values[name]) for name, value in loaded.state_dict().items())


def test_stable_diffusions_architecture_with_few_channels(folder: Path) -> None:
    loaded = load_autoencoder(folder)
    assert_same(loaded.vae, small_vae())
    assert (loaded.factor, loaded.latent_channels, loaded.is_new) == (8, 4, False)
    rgb = some_rgb()
    with torch.no_grad():
        raw = loaded.vae.encode(rgb * 2 - 1).latent_dist.mode()
        assert torch.allclose(loaded.encode_raw(rgb), raw, atol=1e-6)
        assert torch.allclose(loaded.decode_raw(raw), loaded.vae.decode(raw).sample / 2 + 0.5, atol=1e-5)


def test_attention_under_the_names_of_older_diffusers(folder: Path) -> None:
    """The published weights of Stable Diffusion's VAE still have them."""
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    values = load_file(folder / WEIGHTS)
    for new, old in renamed.items():
        values = {name.replace(new, old): value for name, value in values.items()}
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in values
    save_file(values, folder / WEIGHTS)
    assert_same(load_autoencoder(folder).vae, small_vae())


def test_vae_of_a_whole_pipeline(tmp_path: Path) -> None:
    small_vae().save_pretrained(tmp_path / "vae")
    (tmp_path / "model_index.json").write_text("{}")
    assert_same(load_autoencoder(str(tmp_path)).vae, small_vae())


def test_half_precision_weights_are_read_as_float32(tmp_path: Path) -> None:
    small_vae().half().save_pretrained(tmp_path, variant="fp16")
    assert [path.name for path in tmp_path.glob("*.safetensors")] == [HALF]
    assert_same(load_autoencoder(tmp_path).vae, small_vae().half().float())


def test_full_precision_is_preferred(folder: Path) -> None:
    small_vae().half().save_pretrained(folder, variant="fp16")
    assert_same(load_autoencoder(folder).vae, small_vae())


def test_another_number_of_levels_and_channels(tmp_path: Path) -> None:
    small_vae((8, 8, 8), latent_channels=16).save_pretrained(tmp_path)
    loaded = load_autoencoder(tmp_path)
    assert (loaded.factor, loaded.latent_channels) == (4, 16)


def test_only_stable_diffusions_latents_have_the_papers_normaliser(folder: Path) -> None:
    assert not load_autoencoder(folder).is_normalised
    with torch.device("meta"):
        config = new_autoencoder("sd").vae.config
    assert _is_stable_diffusions(config)
    assert not _is_stable_diffusions(SimpleNamespace(**{**config, "scaling_factor": 0.13025}))  # of SDXL
    assert not _is_stable_diffusions(SimpleNamespace(**{**config, "latent_channels": 16}))  # of SD 3


def test_saved_and_loaded_again_is_the_same_bits(folder: Path, tmp_path: Path) -> None:
    first = load_autoencoder(folder)
    with torch.no_grad():
        first.fit_normaliser(first.encode_raw(some_rgb()))
    first.save(tmp_path / "a")
    second = load_autoencoder(tmp_path / "a")
    assert_same(second, first)
    assert second.is_normalised
    second.save(tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in names:  # no file may tell where the model came from: its bytes name the shared components
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def damage_nothing_left(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def damage_pickle_only(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def damage_cut_short(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def damage_lfs_pointer(folder: Path) -> None:
    (folder / WEIGHTS).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 334643276\n"
    )


def damage_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"_class_name": "AutoencoderKL", ')


def damage_shape(folder: Path) -> None:
    values = load_file(folder / WEIGHTS)
    values["encoder.conv_in.weight"] = torch.zeros(8, 5, 3, 3)
    save_file(values, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_nothing_left, "weights in another format are not read"),
        (damage_pickle_only, "weights in another format are not read"),
        (damage_cut_short, "is damaged"),
        (damage_lfs_pointer, "git-lfs"),
        (damage_config, "config.json cannot be read"),
        (damage_shape, "is damaged or not of this config.json"),
    ],
)
def test_damaged_files_are_one_line_that_says_what_to_do(folder: Path, damage: Any, message: str) -> None:
    damage(folder)
    with pytest.raises(EnvironmentProblem, match=message) as caught:
        load_autoencoder(folder)
    assert str(folder) in str(caught.value)
    assert "AutoencoderKL.save_pretrained" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["missing", "unexpected"])
def test_weights_of_another_model_are_not_completed_at_random(folder: Path, what: str) -> None:
    values = load_file(folder / WEIGHTS)
    if what == "missing":
        del values["decoder.conv_out.weight"]
    else:
        values["decoder.conv_out.scale"] = torch.ones(1)
    save_file(values, folder / WEIGHTS)
    with pytest.raises(ConfigError, match=rf"{what} keys: decoder\.conv_out"):
        load_autoencoder(folder)


@pytest.mark.parametrize("changes", [{"in_channels": 4}, {"out_channels": 1}, {"in_channels": 48}])
def test_model_must_take_and_give_rgb(tmp_path: Path, changes: dict[str, int]) -> None:
    small_vae((8, 8), **changes).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="not the 3 of RGB views"):
        load_autoencoder(tmp_path)


def test_another_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(ConfigError, match="is a UNet2DConditionModel, not an AutoencoderKL"):
        load_autoencoder(tmp_path)


def test_file_instead_of_a_folder(folder: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="is a file: give a folder"):
        load_autoencoder(folder / WEIGHTS)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def snapshot_of(hub_cache: Path, repo: str) -> Path:
    """Folder of the cache in which a downloaded repository's files lie."""
    top = hub_cache / f"models--{repo.replace('/', '--')}"
    (top / "refs").mkdir(parents=True)
    (top / "refs" / "main").write_text("0" * 40)
    snapshot = top / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    return snapshot


@pytest.mark.parametrize(("subfolder", "half"), [("", False), ("vae", False), ("vae", True)])
def test_hub_id_is_read_from_the_cache_without_a_network(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch, subfolder: str, half: bool
) -> None:
    path = snapshot_of(hub_cache, "owner/model") / subfolder
    small_vae().to(torch.float16 if half else torch.float32).save_pretrained(
        path, variant="fp16" if half else None
    )
    vae, found = load_vae("owner/model")
    assert found == path
    assert_same(vae, small_vae().half().float() if half else small_vae())


def test_hub_id_that_is_nowhere_says_how_to_get_it(hub_cache: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"hf download stabilityai/sd-vae-ft-mse") as caught:
        load_autoencoder("stabilityai/sd-vae-ft-mse")
    assert "autoencoder.pretrained" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hub_id_whose_weights_are_not_in_the_cache(hub_cache: Path) -> None:
    small_vae().save_pretrained(snapshot_of(hub_cache, "owner/model"))
    next(hub_cache.rglob(WEIGHTS)).unlink()
    with pytest.raises(EnvironmentProblem, match="hf download owner/model"):
        load_autoencoder("owner/model")


def test_hub_id_of_another_kind_of_model(hub_cache: Path) -> None:
    config = snapshot_of(hub_cache, "owner/unet") / "config.json"
    config.write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(ConfigError, match="owner/unet is a UNet2DModel"):
        load_autoencoder("owner/unet")


def test_no_repository_of_that_name(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(repo: str, name: str, local_files_only: bool) -> str:
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")
        raise FileNotFoundError(f"{repo}: 404\nsecond line")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(
        EnvironmentProblem, match=r"autoencoder owner/nothing .*404: where there is"
    ) as caught:
        load_autoencoder("owner/nothing")
    assert "\n" not in str(caught.value)


def test_missing_diffusers_names_the_extra(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    for make in (lambda: new_autoencoder("tiny"), lambda: load_autoencoder(folder)):
        with pytest.raises(EnvironmentProblem, match=r"fpipe\[train\]"):
            make()


def test_training_code_imports_without_diffusers() -> None:
    code = (
        "import sys; sys.modules['diffusers'] = sys.modules['huggingface_hub'] = None; "
        "import pipeline.model.shared, pipeline.train.joint, pipeline.fit.optimise"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def checkpointed(autoencoder: Autoencoder) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of a reconstruction, and the bytes that its forward pass kept."""
    kept = 0

    def pack(value: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += value.numel() * value.element_size()
        return value

    rgb = some_rgb(64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        loss = (autoencoder.decode_raw(autoencoder.encode_raw(rgb)) - rgb).square().mean()
    forward = kept
    autoencoder.zero_grad()
    loss.backward()
    grads = {name: param.grad for name, param in autoencoder.named_parameters() if param.grad is not None}
    return {name: grad.clone() for name, grad in grads.items()}, forward


def test_gradient_checkpointing_has_the_same_gradients_in_less_memory(folder: Path) -> None:
    autoencoder = load_autoencoder(folder)
    plain, plain_bytes = checkpointed(autoencoder)
    autoencoder.enable_gradient_checkpointing()
    grads, grad_bytes = checkpointed(autoencoder)
    assert grads.keys() == plain.keys() and len(plain) > 50
    assert all(torch.equal(grads[name], plain[name]) for name in plain)
    assert grad_bytes < plain_bytes / 3
