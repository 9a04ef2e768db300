from __future__ import annotations

import pytest

from pipeline.config import load_config, read_preset
from pipeline.forecast import _training_seconds, forecast


def test_a_whole_training_from_its_first_steps() -> None:
    seconds = {"warmup": [2.5, 0.5, 0.75], "joint": [1.0, 2.0]}  # none of an autoencoder: RGB is rendered
    counts = {"autoencoder": 0, "warmup": 10, "joint": 20}
    # 10 · 0.5 + 20 · 1, and 2 s of preparation for a fifth of the objects: 10 s for all.
    assert _training_seconds(seconds, counts, prepared=5.0) == 10 * 0.5 + 20 * 1.0 + 2.0 * 5


@pytest.mark.bpy
def test_rgb_is_measured_without_an_autoencoder() -> None:
    settings = ["render.views=4", "train.warmup.objects=3", "train.joint.objects=3"]
    found = forecast(load_config(read_preset("ablation/tri-planes"), settings=settings))
    assert found["seconds"]["train_shared"] > 15
    assert found["seconds"]["fit_objects"] > 0
    assert found["memory"]["train"]["total"] > 0
    # All that renderings need, as in the ablation's table: renderer, and the background's 64 × 64 RGB pixels.
    assert found["bytes"]["shared"] > 3 * 64 * 64 * 4
