"""The main job through the command line: real Blender, Ray, Ray Train and store."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.guardian import processes_of
from storage.plan import read_plan
from storage.planes import PlanesStore
from storage.reader import open_planes
from storage.store import Store
from storage.views import ViewsStore
from tests.conftest import TINY, clean_environment, command, fpipe

REGIMES = ("all", "regime1", "regime2")
ONE_THREAD = ("--set", "compute.train_cpus=1")


def test_evaluate_prints_the_figures_of_every_regime(tiny_dataset):
    found = fpipe("evaluate", tiny_dataset, "--json").json()
    assert [found[name]["objects"] for name in REGIMES] == [8, 4, 4]
    for name in REGIMES:
        part = found[name]
        assert part["psnr_db"]["p05"] <= part["psnr_db"]["median"]
        for figure in (
            "psnr_db",
            "ssim",
            "foreground_psnr_db",
            "ceiling_psnr_db",
            "white_psnr_db",
            "nearest_view_psnr_db",
        ):
            assert np.isfinite(part[figure]["mean"]), figure
        assert part["lpips"]["mean"] is None


def test_metrics_stored_at_fit_time_are_those_of_a_new_rendering(tiny_dataset):
    stored = fpipe("evaluate", tiny_dataset, "--json").json()
    again = fpipe("evaluate", tiny_dataset, "--recompute", "--json").json()
    for name in REGIMES:
        assert again[name]["psnr_db"]["mean"] == pytest.approx(stored[name]["psnr_db"]["mean"], abs=0.01)
        assert again[name]["ssim"]["mean"] == pytest.approx(stored[name]["ssim"]["mean"], abs=1e-3)


def test_planes_load_by_id_and_by_plain_zarr(tiny_dataset):
    planes = open_planes(str(tiny_dataset))
    assert len(planes) == 8
    fitted = planes[planes.ids[0]]
    assert fitted.micro().shape == (3, 4, 16, 16)
    assert fitted.planes().shape == (3, 12, 16, 16)
    macro = np.einsum("m,mpfrc->pfrc", fitted.coefficients(), planes.base_planes())
    np.testing.assert_allclose(fitted.planes()[:, 4:], macro, atol=1e-5)
    plain = zarr.open(str(tiny_dataset / "fits/default/planes.zarr"), mode="r")
    np.testing.assert_array_equal(plain["micro"][0], fitted.micro())
    np.testing.assert_array_equal(plain["coefficients"][0], fitted.coefficients())


def test_everything_again_does_nothing(tiny_dataset):
    before = {path: path.stat().st_mtime_ns for path in tiny_dataset.rglob("*") if path.is_file()}
    done = fpipe("demo", tiny_dataset, "--preset", TINY)
    assert done.code == 0, done.err
    assert {path: path.stat().st_mtime_ns for path in tiny_dataset.rglob("*") if path.is_file()} == before


def test_the_report_is_one_page(tiny_dataset):
    done = fpipe("report", tiny_dataset, "--json")
    page = Path(done.json()["report"])
    assert page.is_relative_to(tiny_dataset)
    assert "<html" in page.read_text()[:500]


def test_status_and_info(tiny_dataset):
    status = fpipe("status", tiny_dataset, "--json").json()
    assert status["stages"]["render"]["ok"] == 8
    assert status["fits"]["default"]["left"] == []
    info = fpipe("info", tiny_dataset, "--json").json()
    assert info["classes"] == {"car": 2, "sofa": 2, "cabinet": 2, "speaker": 2}
    assert info["published_fit"] == "default"


def test_runs_record_what_they_ran_with(tiny_dataset):
    for stage in ("render", "train-shared", "fit-objects"):
        records = [
            json.loads(path.read_text()) for path in (tiny_dataset / "runs" / stage).glob("*/run.json")
        ]
        assert [record["state"] for record in records] == ["done"]
        assert records[0]["versions"]["torch"]
        assert records[0]["config"]["render"]["views"] == 8


class Disturbed:
    """Runs commands on one root and kills each once in the middle."""

    def __init__(self, root: Path, temporary: Path) -> None:
        self.root = root
        self.temporary = temporary
        self.mark = f"kill-test-{temporary.name}-{time.monotonic_ns()}"

    def kill_when(self, condition, *arguments: str) -> None:
        """Starts a command, kills its driver with SIGKILL once the condition holds; nothing may be left."""
        environment = clean_environment(TMPDIR=str(self.temporary), KILL_TEST_MARK=self.mark)
        with subprocess.Popen(
            command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
        ) as driver:
            deadline = time.monotonic() + 300
            while not condition():
                assert driver.poll() is None, f"ended before it could be killed: {driver.stderr.read()}"
                assert time.monotonic() < deadline
                time.sleep(0.02)
            driver.kill()
        deadline = time.monotonic() + 30
        while processes_of(self.mark, str(self.temporary), 0) or any(self.temporary.iterdir()):
            left = (processes_of(self.mark, str(self.temporary), 0), list(self.temporary.iterdir()))
            assert time.monotonic() < deadline, f"left 30 s after the kill: {left}"
            time.sleep(0.2)

    def finish(self, *arguments: str) -> None:
        done = fpipe(*arguments, TMPDIR=str(self.temporary))
        assert done.code == 0, done.err


def files(folder: Path, pattern: str) -> int:
    return len(list(folder.glob(pattern)))


@pytest.mark.timeout(1500)  # the dataset to compare with and six commands, on a loaded machine
def test_killed_in_every_stage_and_resumed_gives_the_same_dataset(tiny_dataset, tmp_path, short_folder):
    root = tmp_path / "dataset"
    job = Disturbed(root, short_folder)
    job.kill_when(lambda: files(root, "done/views/*") >= 2, "render", str(root), "--preset", str(TINY))
    committed = {path: path.read_bytes() for path in root.glob("views.zarr/images/c*")}
    assert 0 < len(committed) < 8
    job.finish("render", str(root), "--preset", str(TINY))
    assert all(path.read_bytes() == data for path, data in committed.items()), (
        "a committed shard was written again"
    )

    # A checkpoint after every step that is not too short for one, so that the few steps have several.
    training = ("train-shared", str(root), *ONE_THREAD, "--set", "compute.checkpoint_every_s=1e-6")
    job.kill_when(lambda: files(root, "runs/train-shared/*/checkpoint-*.json") >= 1, *training)
    job.finish(*training)

    job.kill_when(lambda: files(root, "fits/default/done/*") >= 1, "fit-objects", str(root))
    job.finish("fit-objects", str(root))
    assert_same_datasets(root, tiny_dataset)


def assert_same_datasets(ours: Path, theirs: Path) -> None:
    """Views and shared components are bit-identical, fits are equal."""
    mine, other = Store(ours), Store(theirs)
    assert [row.object_id for row in read_plan(mine).rows] == [row.object_id for row in read_plan(other).rows]
    views, expected_views = ViewsStore.open(mine), ViewsStore.open(other)
    for row in range(read_plan(mine).header.n_objects):
        found, expected = views.read(row), expected_views.read(row)
        for name in ("images", "cam2world", "intrinsics", "heldout", "mesh_to_world"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    fits, expected_fits = PlanesStore.open(mine), PlanesStore.open(other)
    assert fits.header.shared_version == expected_fits.header.shared_version
    np.testing.assert_array_equal(fits.coefficients(), expected_fits.coefficients())
    for row in range(read_plan(mine).header.n_objects):
        np.testing.assert_array_equal(fits.read(row).micro, expected_fits.read(row).micro)
    for name, values in fits.metrics().items():
        np.testing.assert_array_equal(values, expected_fits.metrics()[name], err_msg=name)


def test_the_local_executor_makes_the_same_dataset(tiny_dataset, tmp_path):
    root = tmp_path / "dataset"
    done = fpipe("demo", root, "--preset", TINY, "--executor", "local")
    assert done.code == 0, done.err
    assert_same_datasets(root, tiny_dataset)


def test_another_config_on_an_existing_root_changes_nothing(tiny_dataset, tmp_path):
    root = tmp_path / "dataset"
    shutil.copytree(tiny_dataset, root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    for arguments, said in (
        (("render", root, "--views", "9"), "render.views: 8 (existing) -> 9 (asked for)"),
        (("fit-objects", root, "--set", "fit.latent_steps=9"), "latent_steps"),
    ):
        done = fpipe(*arguments)
        assert done.code == 4, done.err
        assert said in done.err
        assert "Traceback" not in done.err
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stopped_command_says_how_to_go_on(number, code, tmp_path):
    root = tmp_path / "dataset"
    mark = f"stop-test-{tmp_path.name}-{time.monotonic_ns()}"
    environment = clean_environment(TMPDIR=str(tmp_path), KILL_TEST_MARK=mark)
    with subprocess.Popen(
        command("render", root, "--preset", TINY), stderr=subprocess.PIPE, text=True, env=environment
    ) as driver:
        deadline = time.monotonic() + 200
        while not files(root, "done/views/*"):
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        driver.send_signal(number)
        _, err = driver.communicate(timeout=100)
    assert driver.returncode == code, err
    assert "the same command continues" in err
    assert "Traceback" not in err
    deadline = time.monotonic() + 30
    while left := processes_of(mark, str(tmp_path), 0):
        assert time.monotonic() < deadline, f"left 30 s after the end: {left}"
        time.sleep(0.2)
