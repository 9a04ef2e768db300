"""Every stage with its dataset on a real S3 server, through the command line alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from storage import layout
from storage.lease import Lease
from storage.planes import PlanesStore
from storage.repair import give_up_damaged
from storage.replacement import finish_round, open_round
from storage.store import Store
from storage.verify import verify
from tests.conftest import TINY, Finished, fpipe
from tests.s3_server import S3Server

LOCAL = ("--executor", "local", "--workers", "2")
MICRO = "fits/default/planes.zarr/micro/c.{}.0.0.0.0"
BUCKET = "stages"
ROOT = f"s3://{BUCKET}/data/set"


@pytest.fixture(scope="module")
def dataset(s3_server: S3Server) -> Iterator[Store]:
    """A dataset of two objects, planned, rendered, trained and fitted on the server."""
    s3_server.make_bucket(BUCKET)
    before = dict(os.environ)
    os.environ.update(s3_server.environment())
    try:
        for arguments in (
            ("render", "--preset", TINY, "--classes", "car:1,sofa:1", *LOCAL),
            ("train-shared", "--set", "train.objects=2", "--executor", "local"),
            ("fit-objects", *LOCAL),
        ):
            succeeds(*arguments)
        yield Store(ROOT)
    finally:
        os.environ.clear()
        os.environ.update(before)


def succeeds(name: str, *arguments: str | Path) -> Finished:
    done = fpipe(name, ROOT, *arguments)
    assert done.code == 0, (name, done.err)
    return done


def flip(store: Store, key: str, position: int) -> None:
    data = bytearray(store.read(key))
    data[position] ^= 1
    store.replace(key, bytes(data))


def test_planned_rendered_trained_fitted_damaged_and_repaired(dataset: Store) -> None:
    assert [name for name in dataset.list(layout.MAINTENANCE) if "probe" in name] == [], "the probe is gone"
    conditions = dataset.settle()
    assert conditions.create and conditions.swap
    assert succeeds("status", "--json").json()["next"] == f"fpipe report {ROOT}", "nothing is left"
    assert "nothing is damaged" in succeeds("verify", "--full").err
    planes = PlanesStore.open(dataset)
    before = {row: planes.read(row).micro for row in range(2)}
    flip(dataset, MICRO.format(1), 50)
    flip(dataset, "fits/default/planes.zarr/status/c.0", 1)
    found = fpipe("verify", ROOT, "--full", "--json")
    assert found.code == 42
    assert {problem["key"] for problem in found.json()["problems"]} == {
        MICRO.format(1),
        "fits/default/planes.zarr/status/c.0",
    }
    succeeds("repair", *LOCAL)
    planes.refresh()
    for row, micro in before.items():
        np.testing.assert_array_equal(planes.read(row).micro, micro)
    assert verify(dataset, full=True) == []


@pytest.mark.slow
def test_the_other_commands(dataset: Store, tmp_path: Path) -> None:
    (failed,) = give_up_one(dataset)
    assert failed in fpipe("failures", ROOT).out
    mended = succeeds("retry", "--stage", "fit", *LOCAL, "--json").json()
    assert mended["mended"] == [failed]
    refined = succeeds("fit-objects", "--refine", *LOCAL, "--set", "fit.latent_steps=0", "--json").json()
    assert refined["refined"] == 2
    assert succeeds("evaluate", "--json").json()["all"]["objects"] == 2
    succeeds("report")
    assert b"<html" in dataset.read(f"{layout.REPORTS}/default.html")
    succeeds("export", "--to", "npy", "--out", tmp_path / "planes")
    assert len(list((tmp_path / "planes").rglob("*.npy"))) >= 2
    assert "no failed objects" in succeeds("failures").out
    assert succeeds("info").out.count(ROOT) == 1
    assert verify(dataset, full=True) == []
    plan = fpipe("plan", f"s3://{BUCKET}/other", "--preset", TINY, "--no-calibrate")
    assert plan.code == 0, plan.err
    assert Store(f"s3://{BUCKET}/other").list("") == [], "a plan writes nothing"


def give_up_one(store: Store) -> list[str]:
    """Makes the fit of the second object a failure, as a repair does before it computes."""
    flip(store, MICRO.format(1), 50)
    planes = PlanesStore.open(store)
    with Lease(store, "a test") as lease:
        given_up = give_up_damaged(planes, 1, open_round(planes, lease.token, [1]))
        finish_round(planes, lease.token)
    return given_up
