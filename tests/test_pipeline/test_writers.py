"""One writer where the store could not tell which of two was first; a real server behind a shim."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import ComputeConfig
from pipeline.writers import require_writers
from storage.errors import EnvironmentProblem
from storage.store import Store
from storage.verify import verify
from tests.conftest import fpipe
from tests.s3_server import Shim, without_headers
from tests.test_render_jobs.view_files import SIZE_PX, write_nerf_synthetic


def test_where_creating_is_ignored_one_writer_may_write(s3_shim: Shim, s3_root: str) -> None:
    s3_shim.rule = without_headers("if-none-match")
    one = ComputeConfig(executor="local", workers=1)
    store = Store(s3_root)
    require_writers(store, one)
    for compute, shards in (
        (ComputeConfig(executor="ray"), "all"),
        (ComputeConfig(executor="local", workers=2), "all"),
        (one, "0/2"),
    ):
        with pytest.raises(EnvironmentProblem, match=r"one command at a time.*--executor local --workers 1"):
            require_writers(store, compute, shards)


def test_the_command_line_says_so(s3_shim: Shim, s3_root: str, tmp_path: Path) -> None:
    s3_shim.rule = without_headers("if-none-match")
    write_nerf_synthetic(tmp_path / "views/a", {"train": 4})
    size = ("--resolution", str(SIZE_PX))
    arguments = ("render", s3_root, "--source", "nerf", "--path", tmp_path / "views", *size)
    several = fpipe(*arguments)
    assert several.code == 3, several.err
    assert "ignores create-only writes" in several.err
    assert "--executor local --workers 1" in several.err.splitlines()[-1]
    assert "Traceback" not in several.err
    single = fpipe(*arguments, "--executor", "local", "--workers", "1")
    assert single.code == 0, single.err
    assert verify(Store(s3_root), full=True) == []
