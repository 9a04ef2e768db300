"""Finding and reading the files of an ``AutoencoderKL``: a local folder, or a repository of the hub.

Both may be the model itself or a whole pipeline with the model under ``vae/``. Weights are read from
safetensors alone, never from a pickle; the half-precision variant is taken where there is no other. A hub id
is looked up in the local cache first, the network is asked only for what is not there.

diffusers and huggingface_hub are imported by the functions, so that this module imports without them.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from storage.errors import ConfigError, EnvironmentProblem

CONFIG_FILE = "config.json"
WEIGHTS = {"diffusion_pytorch_model.safetensors": None, "diffusion_pytorch_model.fp16.safetensors": "fp16"}
"""Names of weight files, best first, and what diffusers calls the variant."""
SUBFOLDER = "vae"
"""Where a pipeline keeps its autoencoder."""
HOW_TO_GET = (
    "give a folder that AutoencoderKL.save_pretrained wrote (shared/<version>/vae of a dataset is one), or a "
    "hub id such as stabilityai/sd-vae-ft-mse"
)


def load_vae(source: str | Path) -> tuple[Any, Path]:
    """Load an ``AutoencoderKL`` in float32.

    Args:
        source: A local folder or a hub id.

    Returns:
        The model, and the local folder that its files lie in.

    Raises:
        EnvironmentProblem: diffusers is missing, or the files are, or they cannot be read.
        ConfigError: `source` holds another kind of model, or weights that are not those of its config.
    """
    folder = _hub_folder(str(source)) if _is_hub_id(source) else local_folder(source)
    check_kind(folder, source)
    weights = next((name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise EnvironmentProblem(
            f"{source} has no {' or '.join(WEIGHTS)}, and weights in another format are not read: "
            f"{_how_to_download(source)}"
        )
    return _read(folder, weights, source), folder


def local_folder(source: str | Path) -> Path:
    """Folder of the model inside a local model or pipeline.

    Raises:
        EnvironmentProblem: There is none.
    """
    top = Path(source).expanduser()
    if top.is_file():
        raise EnvironmentProblem(f"autoencoder {source} is a file: {HOW_TO_GET}")
    if not top.is_dir():
        raise EnvironmentProblem(f"no autoencoder at {source}: {HOW_TO_GET}")
    for folder in (top, top / SUBFOLDER):
        if (folder / CONFIG_FILE).is_file():
            return folder
    raise EnvironmentProblem(f"{source} holds no {CONFIG_FILE}, so no diffusers model: {HOW_TO_GET}")


def check_kind(folder: Path, source: str | Path) -> None:
    """Check that a folder's config describes an ``AutoencoderKL``.

    Raises:
        ConfigError: It describes something else.
        EnvironmentProblem: It cannot be read.
    """
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise EnvironmentProblem(
            f"autoencoder {source}: {path.name} cannot be read ({error}): {HOW_TO_GET}"
        ) from error
    kind = config.get("_class_name") if isinstance(config, dict) else type(config).__name__
    if kind != "AutoencoderKL":
        raise ConfigError(f"{source} is a {kind}, not an AutoencoderKL: {HOW_TO_GET}")


def autoencoder_kl() -> Any:
    """Import diffusers' class.

    Raises:
        EnvironmentProblem: It cannot be imported.
    """
    try:
        with _quiet():
            return importlib.import_module("diffusers").AutoencoderKL
    except (ImportError, RuntimeError) as error:
        raise EnvironmentProblem(
            f"diffusers cannot be imported ({error}): pip install 'fpipe[train]'"
        ) from error


def _read(folder: Path, weights: str, source: str | Path) -> Any:
    kind = autoencoder_kl()
    try:
        with _quiet():
            vae, found = kind.from_pretrained(
                folder,
                variant=WEIGHTS[weights],
                use_safetensors=True,
                torch_dtype=torch.float32,
                low_cpu_mem_usage=False,
                output_loading_info=True,
                local_files_only=True,
            )
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise EnvironmentProblem(
            f"cannot load an autoencoder from {source} ({_first_line(error)}): {weights} is damaged or not "
            f"of this {CONFIG_FILE}; {_how_to_download(source)}"
        ) from error
    # diffusers would start parameters that the file lacks at random, and ignore what it has too many.
    for what in ("missing_keys", "unexpected_keys"):
        if found[what]:
            raise ConfigError(
                f"{source}: {weights} is not of its {CONFIG_FILE}, {what.replace('_', ' ')}: "
                f"{', '.join(sorted(found[what])[:3])}{' ...' if len(found[what]) > 3 else ''}"
            )
    return vae


def _is_hub_id(source: str | Path) -> bool:
    """Whether a source that is no folder means the hub: ids are ``name`` or ``owner/name``."""
    text = str(source)
    local = isinstance(source, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1
    return not local and not Path(text).exists()


def _hub_folder(repo: str) -> Path:
    """Local folder of the cache that holds a repository's model; downloads what is not there."""
    config = _hub_file(repo, [CONFIG_FILE, f"{SUBFOLDER}/{CONFIG_FILE}"])
    check_kind(config.parent, repo)
    prefix = f"{SUBFOLDER}/" if config.parent.name == SUBFOLDER else ""
    return _hub_file(repo, [prefix + name for name in WEIGHTS]).parent


def _hub_file(repo: str, names: list[str]) -> Path:
    """Local path of the first of these files that the cache has, or else that the hub has."""
    try:
        hub, errors = (importlib.import_module(f"huggingface_hub{part}") for part in ("", ".errors"))
    except ImportError as error:
        raise EnvironmentProblem(f"hub ids need huggingface_hub ({error}): {HOW_TO_GET}") from error
    reason = f"it has no {' or '.join(names)}"
    for only_cache in (True, False):
        for name in names:
            try:
                return Path(hub.hf_hub_download(repo, name, local_files_only=only_cache))
            except errors.LocalEntryNotFoundError as error:
                if not only_cache:
                    raise EnvironmentProblem(_no_hub(repo, "the hub cannot be reached")) from error
            except errors.EntryNotFoundError:
                continue
            except errors.RepositoryNotFoundError as error:
                reason = "the hub has no such repository, or not for you"
                raise EnvironmentProblem(_no_hub(repo, reason)) from error
            except (OSError, ValueError, RuntimeError) as error:
                raise EnvironmentProblem(_no_hub(repo, _first_line(error))) from error
    raise EnvironmentProblem(_no_hub(repo, reason))


def _no_hub(repo: str, reason: str) -> str:
    return (
        f"autoencoder {repo} is no folder here and not in the hub's local cache, and {reason}: "
        f"{_how_to_download(repo)}"
    )


def _how_to_download(source: str | Path) -> str:
    if not _is_hub_id(source):
        return HOW_TO_GET
    names = f"{CONFIG_FILE} {next(iter(WEIGHTS))}"
    return (
        f"where there is a network, run 'hf download {source} {names}' and copy the cache (HF_HOME), or "
        f"'hf download {source} {names} --local-dir FOLDER' and give FOLDER as autoencoder.pretrained"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the warnings that diffusers raises about its own optional packages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
