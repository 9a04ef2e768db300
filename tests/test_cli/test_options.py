"""Which cluster a command uses: RAY_ADDRESS is a default, and nothing but the configuration decides."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli.options import compute_overrides, resolve_config
from storage.store import Store


def address(folder: Path, flag: str | None = None, *settings: str) -> str | None:
    config = resolve_config(Store(str(folder)), None, settings, compute_overrides(None, flag, None))
    return config.compute.ray_address


def test_the_environment_names_the_cluster_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert address(tmp_path) is None
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert address(tmp_path) == "head:6379"
    assert address(tmp_path, "other:6379") == "other:6379"
    assert address(tmp_path, None, "compute.ray_address=third:6379") == "third:6379"
    monkeypatch.setenv("FPIPE_COMPUTE__RAY_ADDRESS", "fourth:6379")
    assert address(tmp_path) == "fourth:6379"
    assert os.environ["RAY_ADDRESS"] == "head:6379"


@pytest.mark.parametrize(("said", "settings"), [("local", ()), ("head:6379", ("compute.ray_address=null",))])
def test_without_a_cluster_ray_does_not_look_for_one_either(
    said: str, settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", said)
    assert address(tmp_path, None, *settings) is None
    assert "RAY_ADDRESS" not in os.environ, "ray.init would join it"
