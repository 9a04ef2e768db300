"""Says before anything runs how much memory a training and a fitting worker take; see train.footprint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import PipelineConfig
from render_jobs.cameras import heldout_count

if TYPE_CHECKING:
    from pipeline.model.autoencoder import Autoencoder
    from pipeline.train.settings import JointSettings


def worker_memory(config: PipelineConfig, n_objects: int) -> dict[str, dict[str, int]] | None:
    """Returns the bytes of one worker of train-shared and of fit-objects by part, None without torch here.

    With a GPU they are the host's and the GPU's memory together: views lie on the host; state, steps, and the
    rays and latents that are not in files lie on the GPU.

    Args:
        config: resolved configuration.
        n_objects: objects of the dataset.
    """
    try:
        from pipeline.fit.resources import MOST_ON_CPU
        from pipeline.train.footprint import RAY_SHARE, WorkerLoad, fit_footprint, training_footprint
    except ImportError:
        return None
    render, compute = config.render, config.compute
    size, settings = (render.height, render.width), config.train.settings()
    views = render.views - heldout_count(render.views, render.heldout_fraction)
    autoencoder = _architecture(config)
    ranks = compute.train_workers
    per_rank = -(-min(config.train.objects, n_objects) // ranks)

    def load(objects: int, dilate: int, budget_bytes: int | None = None) -> WorkerLoad:
        # Silhouettes that grow over the whole view leave no latent pixel out: this is the most.
        share = 1.0 if dilate * autoencoder.factor >= max(size) else RAY_SHARE
        return WorkerLoad(objects, views, size, budget_bytes, share)

    train = training_footprint(
        _of_one_rank(settings, ranks),
        autoencoder,
        load(per_rank, config.train.dilate, compute.train_memory_bytes),
        compute.gradient_checkpointing,
    )
    batch = config.fit.batch or MOST_ON_CPU
    fit = fit_footprint(config.fit.settings(), settings, autoencoder, load(batch, config.fit.dilate))
    read = batch * render.views * size[0] * size[1] * 4  # held-out views too, until an object is judged
    return {"train": train.to_dict(), "fit": replace(fit, views=fit.views + read).to_dict()}


def _of_one_rank(settings: JointSettings, ranks: int) -> JointSettings:
    """Returns the share of the largest rank in every step."""
    recipe = settings.autoencoder
    return replace(
        settings,
        autoencoder=replace(recipe, batch_size=-(-recipe.batch_size // ranks)),
        warmup_objects=-(-settings.warmup_objects // ranks),
        joint_objects=-(-settings.joint_objects // ranks),
    )


def _architecture(config: PipelineConfig) -> Autoencoder:
    """Returns the autoencoder's shapes; a hub id is not fetched and counts as Stable Diffusion's."""
    from pipeline.model.autoencoder import load_autoencoder
    from pipeline.model.identity import IdentityAutoencoder
    from pipeline.train.footprint import architecture

    ae = config.train.autoencoder
    if ae.size == "identity":
        return IdentityAutoencoder().to("meta")
    if ae.pretrained is None:
        return architecture(ae.size, ae.factor, ae.latent_channels)
    if Path(ae.pretrained).is_dir():
        return load_autoencoder(ae.pretrained).to("meta")
    return architecture("sd", None, None)
