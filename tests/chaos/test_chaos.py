"""A minute of `make chaos`: ours counts zeros under kills and faults, the naive store does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.__main__ import COUNTS

SEED = 5


def _storm(backend: str, root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    command = [sys.executable, "-m", "tests.chaos", "--small", "--seed", str(SEED), "--root", str(root)]
    done = subprocess.run(
        [*command, "--backends", backend], capture_output=True, text=True, timeout=550, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    ours, naive = map(json.loads, done.stdout.splitlines())
    assert (ours["store"], naive["store"]) == ("ours", "naive")
    return ours, naive


def _require(ours: dict[str, Any], naive: dict[str, Any]) -> None:
    nothing = dict.fromkeys((*COUNTS, "wrong_configs", "leftovers", "stuck", "crashed"), 0)
    assert {name: ours[name] for name in nothing} == nothing
    assert ours["kills"] >= 5
    assert ours["replaced"] > 0
    assert ours["events"]["seen"] > 0
    assert ours["events"]["beaten"] >= ours["shards"], "writers collided on the shards"
    assert naive["kills"] > 0
    assert naive["doubly_committed"] > 0
    assert naive["lost_objects"] > 0


def test_on_the_local_disk(tmp_path: Path) -> None:
    ours, naive = _storm("local", tmp_path)
    _require(ours, naive)
    assert ours["kills_in_writes"] > 0
    assert naive["inconsistent_shards"] + naive["bad_reads"] > 0, "torn files and mixtures"


def test_on_s3_behind_the_proxy(tmp_path: Path) -> None:
    pytest.importorskip("moto.server")
    ours, naive = _storm("s3", tmp_path)
    _require(ours, naive)
    assert ours["faults_total"] >= 60
    assert all(ours["faults"].get(kind, 0) > 0 for kind in ("error_500", "slow_down", "truncate", "lost_put"))
