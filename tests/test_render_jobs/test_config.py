from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from render_jobs.config import ExecutionLimits, RenderConfig


def test_defaults_are_the_papers_setup() -> None:
    config = RenderConfig()
    assert (config.views, config.width, config.height) == (160, 128, 128)
    assert (config.radius_world, config.focal, config.heldout_fraction) == (1.3, 1.02, 0.1)


@pytest.mark.parametrize(
    "values",
    [
        {"view": 3},
        {"views": 1},
        {"radius_world": 0.5},
        {"poses": "ring"},
        {"heldout_fraction": 1.0},
        {"samples": 0},
    ],
)
def test_unknown_keys_and_bad_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RenderConfig(**values)


def test_samples_follow_the_shading_unless_given() -> None:
    assert RenderConfig().cycles_settings()["samples"] == 8
    assert RenderConfig(shading="diffuse").cycles_settings()["samples"] == 16
    assert RenderConfig(shading="diffuse", samples=3).cycles_settings()["samples"] == 3


def test_settings_that_came_later_leave_the_hash_of_earlier_datasets_alone() -> None:
    # What the first version stored.
    first = {
        "views": 160,
        "width": 128,
        "height": 128,
        "poses": "hemisphere",
        "radius_world": 1.3,
        "focal": 1.02,
        "heldout_fraction": 0.1,
        "seed": 0,
        "shading": "default",
        "samples": None,
    }
    assert RenderConfig().model_dump(mode="json") == first
    assert RenderConfig(**first) == RenderConfig()
    changed = RenderConfig(shared_rig=True, poses="front", front_azimuth_deg=20)
    assert changed.model_dump(mode="json") == {
        **first,
        "poses": "front",
        "shared_rig": True,
        "front_azimuth_deg": 20.0,
    }
    assert RenderConfig(**changed.model_dump(mode="json")) == changed


def test_a_camera_file_means_poses_of_a_file() -> None:
    assert RenderConfig(cameras="a.json").poses == "file"
    for values in ({"poses": "file"}, {"poses": "front", "cameras": "a.json"}):
        with pytest.raises(ValidationError, match="cameras"):
            RenderConfig(**values)


def test_limits_are_no_content() -> None:
    assert not set(ExecutionLimits.model_fields) & set(RenderConfig.model_fields)
    with pytest.raises(ValidationError):
        ExecutionLimits(deadline_s=0)
