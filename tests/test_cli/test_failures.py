"""What happens after failures, through the command line: list, reproduce, retry, kill a retry."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from render_jobs.sources.procedural import write_object
from storage.journal import read_journal
from storage.lease import read_lease
from storage.records import Status
from storage.store import Store
from storage.verify import verify
from storage.views import ViewsStore
from tests.conftest import clean_environment, command, fpipe

BROKEN = {
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "empty": b"",
    "faceless": b"v 0 0 0\nv 1 0 0\nv 0 1 0\n",
    "infinite": b"v 0 0 0\nv nan 0 0\nv 0 1 0\nf 1 2 3\n",
}
LOCAL = ("--executor", "local", "--workers", "2")
SMALL = ("--set", "render.views=6", "--set", "render.width=48", "--set", "render.height=48")


def model(folder: Path, name: str) -> Path:
    (cars,) = (entry for entry in folder.iterdir() if entry.name == "02958343")
    return cars / name / "models" / "model_normalized.obj"


def mend(meshes: Path, *names: str) -> None:
    """Put good meshes in the place of broken ones."""
    good = next(path for path in meshes.glob("*/*0000/models"))
    for name in names:
        shutil.copytree(good, model(meshes, name).parent, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered dataset: three good cars and four broken ones, two objects per shard at most."""
    folder = tmp_path_factory.mktemp("failed")
    for number in range(3):
        write_object("car", number, folder / "meshes")
    for name, content in BROKEN.items():
        path = model(folder / "meshes", name)
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    source = ("--source", "shapenet", "--path", folder / "meshes", "--classes", "car")
    done = fpipe("render", folder / "dataset", *source, *SMALL, *LOCAL)
    assert done.code == 42, done.err
    assert "4 objects failed in " in done.err
    return folder


@pytest.fixture
def dataset(failed: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of it to change, and the meshes that it was made from."""
    shutil.copytree(failed, tmp_path / "copy")
    return tmp_path / "copy" / "dataset", failed / "meshes"


@pytest.fixture
def mended(failed: Path) -> None:
    """The broken meshes are good for the length of a test."""
    mend(failed / "meshes", *BROKEN)
    yield
    for name, content in BROKEN.items():
        shutil.rmtree(model(failed / "meshes", name).parent)
        model(failed / "meshes", name).parent.mkdir()
        model(failed / "meshes", name).write_bytes(content)


def test_failures_are_listed_and_their_commands_reproduce_them(failed: Path, tmp_path: Path) -> None:
    root = failed / "dataset"
    text = fpipe("failures", root)
    assert text.code == 0
    assert "render: 4 failed" in text.out
    found = fpipe("failures", root, "--json", "--class", "html_page,no_faces").json()
    assert found["version"] == 1
    assert found["stages"]["render"]["kinds"] == {"no_faces": 1, "html_page": 1}
    for failure in found["stages"]["render"]["objects"]:
        program, *arguments = shlex.split(failure["repro"])
        assert program == "fpipe"
        again = fpipe(*arguments)
        assert again.code == 42, again.err
        assert f"{failure['object_id']} fails: {failure['kind']}: {failure['reason']}" in again.out
    assert fpipe("failures", root, "--warnings").out.strip() == "no warnings"
    good = next(
        row.object_id for row in ViewsStore.open(Store(root)).plan.rows if row.object_id.endswith("1")
    )
    works = fpipe("repro", root, good, "--out", tmp_path / "pictures", "--json")
    assert works.code == 0, works.err
    pictures = works.json()["pictures"]
    assert len(pictures) == 6
    assert "OBJ import" in works.err, "what Blender says is shown"
    assert np.asarray(Image.open(pictures[0])).shape == (48, 48, 4)


def test_wrong_use_is_told_in_one_line(failed: Path) -> None:
    root = failed / "dataset"
    for arguments, said in (
        (("retry", root, "--objects", "car-zzz"), "no object 'car-zzz'"),
        (("retry", root, "--set", "render.views=9"), "only compute.… can be set here"),
        (("retry", root, "--class", ","), "write names with commas"),
        (("retry", root, "--stage", "fit", "--name", "x"), "nothing has been fitted yet"),
        (("retry", root, "--stage", "fit"), f"run fpipe fit-objects {root}"),
        (("repro", root, "car-zzz"), "no object 'car-zzz'"),
        (("failures", root.parent), "no dataset"),
    ):
        done = fpipe(*arguments)
        assert done.code == 2, done.err
        assert said in done.err
        assert "Traceback" not in done.err


def test_retry_under_ray_mends_what_can_be_mended(dataset: tuple[Path, Path], mended: None) -> None:
    root, meshes = dataset
    views = ViewsStore.open(Store(root))
    before = {row: views.read(row).images for row in np.flatnonzero(views.status() == Status.OK).tolist()}
    some = fpipe("retry", root, "--class", "html_page,empty_file", "--json")
    assert some.code == 0, some.err
    assert some.json()["mended"] == ["car-empty", "car-html"]
    rest = fpipe("retry", root, *LOCAL, "--set", "compute.limits.deadline_s=0.001")
    assert rest.code == 42, rest.err
    assert rest.err.count("timeout: not finished after 0.001 s") == 4, "while it runs, and at its end"
    rest = fpipe("retry", root, *LOCAL, "--class", "timeout")
    assert rest.code == 0, rest.err
    assert "2 of 2 objects mended" in rest.err
    views.refresh()
    assert (views.status() == Status.OK).all()
    for row, images in before.items():
        np.testing.assert_array_equal(views.read(row).images, images)
    assert verify(Store(root), full=True) == []
    assert "nothing to try again" in fpipe("retry", root).err
    moved = meshes.rename(meshes.with_name("moved"))
    try:
        again = fpipe("render", root)
    finally:
        moved.rename(meshes)
    assert again.code == 0, again.err
    assert "all" in again.err and "shards are done" in again.err, (
        "meshes that were mended, or are gone, do not count"
    )


class Started:
    """A retry that runs, until a condition holds."""

    def __init__(self, root: Path, condition: Callable[[Store], bool]) -> None:
        self.process = subprocess.Popen(
            command("retry", root, "--executor", "local", "--workers", "1"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )
        store, deadline = Store(root), time.monotonic() + 120
        while not condition(store):
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def end(self, number: int) -> tuple[int, str]:
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


def is_open(store: Store) -> bool:
    return bool(read_journal(store, "views.zarr").open)


MOMENTS: dict[str, Callable[[Store], bool]] = {
    "round opened": is_open,
    "first file kept": lambda store: bool(store.list("quarantine/views.zarr/images")),
    "second file kept": lambda store: len(store.list("quarantine/views.zarr/images")) > 1,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_in_the_middle_the_same_command_finishes_it(
    dataset: tuple[Path, Path], mended: None, moment: str
) -> None:
    root, _ = dataset
    retry = Started(root, MOMENTS[moment])
    assert retry.end(signal.SIGKILL)[0] == -signal.SIGKILL
    store = Store(root)
    views = ViewsStore.open(store)
    status = views.status()  # whatever it left, nothing is torn and nobody is told lies
    for row, known in enumerate(status.tolist()):
        assert views.record(row).status == known
        if known == Status.OK:
            views.read(row)
    assert is_open(store)
    again = fpipe("retry", root, *LOCAL)
    assert again.code == 0, again.err
    assert (ViewsStore.open(store).status() == Status.OK).all()
    assert verify(store, full=True) == []
    assert not is_open(store)


def test_a_stopped_retry_gives_its_lease_back_and_goes_on_later(
    dataset: tuple[Path, Path], mended: None
) -> None:
    root, _ = dataset
    code, err = Started(root, is_open).end(signal.SIGTERM)
    assert code == 75, err
    assert "the same command continues" in err
    found = read_lease(Store(root))
    assert found is not None and found.released
    assert fpipe("retry", root, *LOCAL).code == 0
    assert verify(Store(root), full=True) == []


def test_two_retries_at_once(dataset: tuple[Path, Path], mended: None) -> None:
    root, _ = dataset
    first = Started(root, is_open)
    second = fpipe("retry", root, *LOCAL)
    assert second.code == 3, second.err
    assert f"process {first.process.pid} on" in second.err
    assert "since 20" in second.err and "ends by itself in at most" in second.err
    assert "Traceback" not in second.err
    _, err = first.process.communicate(timeout=120)
    assert first.process.returncode == 0, err
    assert (ViewsStore.open(Store(root)).status() == Status.OK).all()
