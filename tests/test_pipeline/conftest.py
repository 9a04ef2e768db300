"""Checks the shape annotations of the model and the losses while the tests of this folder run."""

from __future__ import annotations

from jaxtyping import install_import_hook

CHECKED = ("planes", "rays", "compositing", "kernel_choice", "mlp", "occupancy", "renderer")
MODULES = [*(f"pipeline.model.{name}" for name in CHECKED), "pipeline.train.losses"]

# A module that another test package has imported before stays unchecked; run alone, this folder checks all.
install_import_hook(MODULES, "beartype.beartype")
