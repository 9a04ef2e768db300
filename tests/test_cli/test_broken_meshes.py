"""Broken meshes among good ones: recorded with their reasons, everything else done, exit code 42."""

from __future__ import annotations

import shutil

import pytest

from render_jobs.sources.procedural import write_object
from storage.errors import ObjectUnavailableError
from storage.reader import open_planes
from tests.conftest import TINY, fpipe

BROKEN = {
    "empty": b"",
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "faceless": b"v 0 0 0\nv 1 0 0\nv 0 1 0\n",
    "infinite": b"v 0 0 0\nv nan 0 0\nv 0 1 0\nf 1 2 3\n",
    "flat": b"v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n",
}


@pytest.fixture(scope="module")
def shapenet(tmp_path_factory):
    """A folder in ShapeNet's layout: three good cars and six broken ones."""
    root = tmp_path_factory.mktemp("shapenet")
    good = [write_object("car", number, root) for number in range(3)]
    cars = good[0].parents[2]
    for name, content in BROKEN.items():
        path = cars / name / "models" / "model_normalized.obj"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    shutil.copytree(good[0].parents[1], cars / "twin")
    return root


def test_the_whole_job_with_broken_meshes(shapenet, tmp_path):
    root = tmp_path / "dataset"
    source = ("--source", "shapenet", "--path", shapenet, "--classes", "car")
    done = fpipe("render", root, *source, "--preset", TINY)
    assert done.code == 42, done.err
    assert "6 objects failed" in done.err
    assert fpipe("render", root).code == 42, "said again by a command that has nothing to do"

    status = fpipe("status", root, "--json").json()
    failures = {
        failure["object_id"].removeprefix("car-"): failure
        for failure in status["stages"]["render"]["failures"]
    }
    assert failures.keys() == BROKEN.keys()
    kinds = {name: failure["kind"] for name, failure in failures.items()}
    assert kinds == {
        "empty": "empty_file",
        "html": "html_page",
        "pointer": "lfs_pointer",
        "faceless": "no_faces",
        "infinite": "bad_vertex",
        "flat": "no_extent",
    }
    assert all(failure["reason"] and "repro" in failure["repro"] for failure in failures.values())
    assert status["stages"]["render"]["ok"] == 4

    assert fpipe("train-shared", root, "--set", "compute.train_cpus=1").code == 0
    assert fpipe("fit-objects", root).code == 42
    planes = open_planes(str(root))
    assert len(planes) == 4
    with pytest.raises(ObjectUnavailableError, match="empty"):
        planes["car-empty"].micro()
    assert planes["car-twin"].planes().shape == (3, 12, 16, 16)
