"""Training that is killed: on S3 in one process, and one of two ranks under Ray Train."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from fsspec.asyn import AsyncFileSystem

from pipeline.model.shared import load_regime_one, load_shared
from pipeline.train.curve_file import read_curve
from pipeline.train.training_views import over_white
from storage.layout import run_folder
from storage.plan import read_plan
from storage.shared import read_published_shared, read_shared_meta
from storage.store import Store
from storage.views import ViewsStore
from tests.conftest import TINY, clean_environment, command, fpipe
from tests.test_cli.conftest import BUCKET

# Enough steps to be killed among them on a loaded machine; a checkpoint as often as 10% of the time allows.
LONGER = ("--set", "train.warmup.steps=60", "--set", "train.joint.steps=60")
OFTEN = ("--set", "compute.checkpoint_every_s=1e-6", "--set", "compute.train_cpus=1")
TOTAL_STEPS = 12 + 60 + 60


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny dataset's views alone."""
    root = tmp_path_factory.mktemp("rendered") / "dataset"
    done = fpipe("render", root, "--preset", TINY, "--executor", "local")
    assert done.code == 0, done.err
    return root


def wait_for(condition: Callable[[], Any], driver: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + 300
    while not (found := condition()):
        assert driver.poll() is None, f"ended before it could be killed: {driver.stderr.read()}"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Starts a command in a process group of its own."""
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(**environment),
        start_new_session=True,
    )


def summary(store: Store) -> dict[str, Any]:
    (run,) = (
        name
        for name in store.list("runs/train-shared")
        if store.exists(f"runs/train-shared/{name}/result.json")
    )
    return json.loads(store.read(f"runs/train-shared/{run}/result.json"))


@pytest.mark.bpy
def test_killed_on_s3_and_resumed_is_the_undisturbed_training(
    s3: AsyncFileSystem, s3_environment: dict[str, str], rendered: Path, tmp_path: Path
) -> None:
    near, far = tmp_path / "near", f"{BUCKET}/dataset"
    shutil.copytree(rendered, near)
    s3.put(str(rendered), far, recursive=True)
    options = (*LONGER, *OFTEN, "--executor", "local")
    done = fpipe("train-shared", near, *options)
    assert done.code == 0, done.err

    pattern = f"{far}/runs/train-shared/*/checkpoint-rank0-*.json"
    with start("train-shared", far, *options, **s3_environment) as driver:
        wait_for(lambda: s3.glob(pattern), driver)
        os.killpg(driver.pid, signal.SIGKILL)
    assert not s3.glob(f"{far}/runs/train-shared/*/result.json"), "killed in the middle"
    steps = [json.loads(s3.cat_file(path))["step"] for path in s3.glob(pattern)]
    done = fpipe("train-shared", far, *options, **s3_environment)
    assert done.code == 0, done.err
    expected, found = summary(Store(near)), summary(Store(far))
    assert found["resumed_after_step"] in steps  # the older one if the kill hit the newest one's writing
    assert found["shared_version"] == expected["shared_version"], "the same bits"
    version = found["shared_version"]
    stores = [Store(root) for root in (near, far)]
    infos = [read_shared_meta(store, version)["info"] for store in stores]
    assert infos[0]["steps"] == infos[1]["steps"] == TOTAL_STEPS
    curves = [
        read_curve(store, run_folder("train-shared", info["train_hash"]))
        for store, info in zip(stores, infos, strict=True)
    ]
    assert curves[0] == curves[1]
    assert len(curves[0]) == TOTAL_STEPS


@pytest.mark.slow
@pytest.mark.bpy
def test_a_killed_rank_is_recovered_by_ray_train(rendered: Path, tmp_path: Path, short_folder: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    options = (*LONGER, *OFTEN, "--set", "compute.train_workers=2")
    for root in (undisturbed, killed):
        shutil.copytree(rendered, root)
    done = fpipe("train-shared", undisturbed, *options, TMPDIR=str(short_folder))
    assert done.code == 0, done.err

    mark = f"rank-kill-{tmp_path.name}-{time.monotonic_ns()}"
    with start("train-shared", str(killed), *options, TMPDIR=str(short_folder), RANK_KILL=mark) as driver:
        wait_for(lambda: list(killed.glob("runs/train-shared/*/checkpoint-rank1-*.json")), driver)
        ranks = [process for process in psutil.process_iter() if is_rank(process, mark)]
        assert len(ranks) == 2
        ranks[1].send_signal(signal.SIGKILL)
        assert not list(killed.glob("runs/train-shared/*/result.json")), "killed in the middle"
        _, err = driver.communicate(timeout=400)
    assert driver.returncode == 0, err
    assert summary(Store(undisturbed))["resumed_after_step"] == 0
    assert summary(Store(killed))["resumed_after_step"] > 0
    figures = [heldout_psnr_db(Store(root)) for root in (undisturbed, killed)]
    print(f"held-out PSNR undisturbed {figures[0]:.3f} dB, one rank killed {figures[1]:.3f} dB")  # noqa: T201
    assert abs(figures[0] - figures[1]) < 0.1
    versions = [summary(Store(root))["shared_version"] for root in (undisturbed, killed)]
    assert versions[0] == versions[1], "the same bits"


def is_rank(process: psutil.Process, mark: str) -> bool:
    try:
        return "RayTrainWorker" in " ".join(process.cmdline()) and process.environ().get("RANK_KILL") == mark
    except psutil.Error:
        return False


def heldout_psnr_db(store: Store) -> float:
    """Mean over the jointly trained objects, rendered from their codes."""
    published = read_published_shared(store)
    assert published is not None
    shared = load_shared(store, published["shared_version"])
    codes = load_regime_one(store, published["shared_version"])
    plan, views = read_plan(store), ViewsStore.open(store)
    rows = {row.object_id: row.row for row in plan.rows}
    figures = []
    for object_id in codes.ids:
        found = views.read(rows[object_id])
        micro, coefficients = codes.of(object_id) or (None, np.empty(0))
        heldout = found.heldout
        drawn = shared.render_rgb(
            None if micro is None else torch.from_numpy(micro),
            torch.from_numpy(coefficients),
            torch.from_numpy(found.cam2world[heldout]),
            torch.from_numpy(found.intrinsics[heldout]),
        )
        error = (drawn - over_white(torch.from_numpy(found.images[heldout]))).square().flatten(1).mean(1)
        figures.append(float(-10 * torch.log10(error).mean()))
    return float(np.mean(figures))
