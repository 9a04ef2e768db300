"""Checks the shape annotations of the model's functions while the tests of this folder run."""

from __future__ import annotations

from jaxtyping import install_import_hook

CHECKED = ("planes", "rays", "compositing", "kernel_choice", "mlp", "occupancy", "renderer")

# A module that another test package has imported before stays unchecked; run alone, this folder checks all.
install_import_hook([f"pipeline.model.{name}" for name in CHECKED], "beartype.beartype")
