"""Programs without fpipe read the arrays: plain zarr-python and tensorstore, local and over S3."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from storage.reader import open_planes

from .builders import FAILED_ROW, full_dataset, object_views

ZARR = """
import sys, numpy, zarr
root, out, *arrays = sys.argv[1:]
numpy.savez(out, **{name: zarr.open_array(f"{root}/{name}", mode="r")[:] for name in arrays})
"""
TENSORSTORE = """
import os, sys, numpy, tensorstore
root, out, *arrays = sys.argv[1:]

def read(name):
    kvstore = {"driver": "file", "path": f"{root}/{name}/"}
    if root.startswith("s3://"):
        bucket, _, path = root.removeprefix("s3://").partition("/")
        kvstore = {"driver": "s3", "bucket": bucket, "path": f"{path}/{name}/"}
        kvstore |= {"endpoint": os.environ["AWS_ENDPOINT_URL"], "aws_region": "us-east-1"}
    return tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True).result().read().result()

numpy.savez(out, **{name: read(name) for name in arrays})
"""
PROGRAMS = {"zarr": ZARR, "tensorstore": TENSORSTORE}
PLANES = "fits/main/planes.zarr"


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    url = str(tmp_path / "root") if request.param == "local" else request.getfixturevalue("s3_root")
    full_dataset(url)
    return str(url)


@pytest.mark.parametrize("program", PROGRAMS)
def test_arrays_equal_ours(root: str, program: str, tmp_path: Path) -> None:
    pytest.importorskip(program)
    names = ["micro", "coefficients", "status", "metrics", "regime", "class"]
    arrays = [*(f"{PLANES}/{name}" for name in names), "views.zarr/images", "views.zarr/cam2world"]
    out = tmp_path / "read.npz"
    subprocess.run(
        [sys.executable, "-c", PROGRAMS[program], root, str(out), *arrays], check=True, timeout=120
    )
    with np.load(out) as file:
        read = {name.rpartition("/")[2]: file[name] for name in arrays}
    dataset = open_planes(root)
    batch = dataset[:]
    rows = batch.rows
    np.testing.assert_array_equal(read["micro"][rows], batch.micro(np.float16))
    assert np.isnan(read["micro"][FAILED_ROW]).all()
    np.testing.assert_array_equal(read["coefficients"][rows], batch.coefficients())
    np.testing.assert_array_equal(read["status"], dataset.status)
    np.testing.assert_array_equal(read["metrics"][rows], np.stack(list(batch.metrics.values()), axis=1))
    np.testing.assert_array_equal(read["regime"][rows], batch.regime)
    np.testing.assert_array_equal(read["class"][rows], batch.class_index)
    np.testing.assert_array_equal(read["cam2world"][rows], batch.cam2world())
    for row in rows:
        np.testing.assert_array_equal(read["images"][row], object_views(int(row)).images)
