"""The wheel of the reader, installed alone in a clean environment, opens a store and reads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from storage.reader import open_planes

from .builders import full_dataset

PROJECT = Path(__file__).parents[2] / "deploy/reader"
USE = """
import time
began = time.perf_counter()
import fpipe_reader
dataset = fpipe_reader.open_planes(ROOT)
seconds = time.perf_counter() - began
import json, sys
heavy = sorted({"torch", "zarr", "s3fs", "fsspec", "numcodecs"} & set(sys.modules))
planes = dataset[:].planes(layout="flat")
import numpy, zarr
micro = zarr.open_group(ROOT + "/fits/main/planes.zarr", mode="r")["micro"][:]
same = numpy.array_equal(micro[dataset[:].rows], dataset[:].micro(numpy.float16))
where = fpipe_reader.__file__
found = {"seconds": seconds, "heavy": heavy, "sum": float(planes.sum()), "zarr": same, "where": where}
print(json.dumps(found))
"""


def build(folder: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(PROJECT)],
        check=True,
        timeout=300,
    )
    [wheel] = folder.glob("fpipe_reader-*.whl")
    return wheel


@pytest.mark.slow
def test_the_wheel_alone_reads_a_dataset(tmp_path: Path) -> None:
    full_dataset(tmp_path / "cars")
    wheel = build(tmp_path)
    packages = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert packages == {"fpipe_reader", f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info"}
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", str(wheel)], check=True, timeout=500)
    code = USE.replace("ROOT", repr(str(tmp_path / "cars")))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    runs = []
    for _ in range(3):  # the first one compiles
        done = subprocess.run(
            [python, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            env=clean,
            timeout=120,
        )
        runs.append(json.loads(done.stdout))
    own = open_planes(tmp_path / "cars")[:].planes(layout="flat")
    for run in runs:
        assert run["heavy"] == [] and run["zarr"] and run["where"].startswith(str(tmp_path / "env"))
        np.testing.assert_allclose(run["sum"], own.sum(), rtol=1e-5)
    assert min(run["seconds"] for run in runs) < 1.0
