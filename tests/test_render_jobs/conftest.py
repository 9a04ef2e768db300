from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from render_jobs.worker import BlenderWorker


@pytest.fixture(scope="session")
def worker() -> Iterator[BlenderWorker]:
    """One Blender child for all tests that only render."""
    with BlenderWorker() as shared:
        yield shared


@pytest.fixture(scope="session")
def real_meshes() -> Path:
    folder = os.environ.get("FPIPE_TEST_MESHES")
    if not folder:
        pytest.skip("set FPIPE_TEST_MESHES to a folder of meshes in ShapeNet v2 layout to run this test")
    return Path(folder)
