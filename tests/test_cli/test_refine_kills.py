"""`fpipe fit-objects --refine` that is killed in the middle while others read, and run again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from storage.errors import StaleSnapshotError
from storage.planes import PlanesStore
from storage.records import ObjectFit
from storage.store import Store
from storage.verify import verify
from tests.conftest import clean_environment, command, fpipe
from tests.test_pipeline.test_fit_job import BROKEN, N, _dataset, _fit_all

# A shard takes a second or so; one task at a time.
OPTIONS = ("--name", "base", "--executor", "local", "--workers", "1", "--set", "fit.latent_steps=150")
ROWS = [row for row in range(N) if row != BROKEN]


def code(fit: ObjectFit) -> bytes:
    return np.asarray(fit.micro).tobytes() + fit.coefficients.tobytes()


def codes(root: Path) -> dict[int, bytes]:
    planes = PlanesStore.open(Store(root), "base")
    return {row: code(planes.read(row)) for row in ROWS}


def generations(root: Path) -> list[int]:
    planes = PlanesStore.open(Store(root), "base")
    return [planes.sidecar(shard).generation for shard in range(planes.n_shards)]


@pytest.mark.slow
def test_killed_among_its_shards_it_goes_on_and_readers_see_old_or_new(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _fit_all(_dataset(whole, per_shard=1))
    shutil.copytree(whole, killed)
    old = codes(whole)
    undisturbed = fpipe("fit-objects", whole, "--refine", *OPTIONS, "--json")
    assert undisturbed.code == 42, undisturbed.err  # one object has no fit
    result = undisturbed.json()
    assert (result["refined"], result["skipped"], result["times"], result["without_fit"]) == (5, 0, 1, 1)
    assert result["improved"] > 0
    assert "PSNR on held-out views, mean:" in undisturbed.err
    new = codes(whole)
    assert sum(new[row] != old[row] for row in ROWS) == result["improved"]

    reader = PlanesStore.open(Store(killed), "base")
    arguments = command("fit-objects", killed, "--refine", *OPTIONS)
    with subprocess.Popen(
        arguments, stderr=subprocess.PIPE, text=True, env=clean_environment(), start_new_session=True
    ) as driver:
        deadline, seen = time.monotonic() + 300, 0
        while sum(generations(killed)) < 2:
            assert driver.poll() is None, driver.stderr and driver.stderr.read()
            assert time.monotonic() < deadline
            for row in ROWS:
                try:
                    assert code(reader.read(row)) in (old[row], new[row]), "old or new, nothing else"
                    reader.metrics()
                except StaleSnapshotError:
                    reader.refresh()
                    seen += 1
        os.killpg(driver.pid, signal.SIGKILL)
    assert seen > 0, "the reader was in the middle"
    among = generations(killed)
    assert 0 < sum(among) < len(among), "killed in the middle"
    for row in ROWS:
        assert code(PlanesStore.open(Store(killed), "base").read(row)) in (old[row], new[row])
    status = fpipe("status", killed, "--json").json()
    assert "--refine --name base" in status["next"]

    refused = fpipe("fit-objects", killed, "--refine", *OPTIONS, "--set", "fit.rgb_steps=7")
    assert refused.code == 4, refused.err
    assert "fit.rgb_steps: 2 (existing) -> 7 (asked for)" in refused.err
    resumed = fpipe("fit-objects", killed, "--refine", *OPTIONS, "--json")
    assert resumed.code == 42, resumed.err
    assert resumed.json()["skipped"] == sum(among)
    same = ("refined", "improved", "psnr_db", "times", "without_fit")
    assert {name: resumed.json()[name] for name in same} == {name: result[name] for name in same}
    assert codes(killed) == new, "the same bits as without the kill"
    assert verify(Store(killed), full=True) == []


def test_settings_that_a_refinement_cannot_change_are_refused(tmp_path: Path) -> None:
    _fit_all(_dataset(tmp_path, per_shard=3))
    for options, message in (
        (("--set", "train.objects=3"), "takes fit.… and compute.… alone"),
        (("--shared", "0123"), "keeps the fit's shared components"),
    ):
        done = fpipe("fit-objects", tmp_path, "--refine", "--name", "base", *options)
        assert done.code == 2, done.err
        assert message in done.err
