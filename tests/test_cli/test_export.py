"""`fpipe export` of planes through the command line: what is printed, exit codes, options that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from storage.reader import open_planes
from tests.conftest import fpipe
from tests.test_pipeline.export_dataset import make_dataset


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "cars"
    make_dataset(folder)
    return folder


def test_planes_are_exported_and_what_is_there_is_skipped(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("export", root, "--to", "npy", "--dtype", "float16", "--out", out, "--json")
    done = fpipe(*arguments)
    assert done.code == 42, done.err
    assert (done.json()["written"], done.json()["skipped"]) == (4, 0)
    assert set(done.json()["unavailable"]) == {"car-3", "car-5"}
    assert "--url and --creator" in done.err
    planes = np.load(out / "planes" / "sofa" / "sofa-0.npy")
    np.testing.assert_array_equal(planes, open_planes(root)[0].planes().reshape(15, 4, 4).astype(np.float16))
    again = fpipe(*arguments)
    assert (again.json()["written"], again.json()["skipped"]) == (0, 4)
    mine = fpipe("export", root, "--to", "h5", "--out", out)
    assert (mine.code, mine.out) == (4, "")
    assert "another format" in mine.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "obj"), "npy, safetensors, h5, webdataset, nerfstudio"),
        (("--to", "npy", "--accept-terms"), "--accept-terms belongs to exports of views"),
        (("--to", "nerfstudio", "--micro"), "--micro belongs to exports of planes"),
        (("--to", "nerfstudio", "--dtype", "float16"), "--dtype belongs to exports of planes"),
        (("--to", "npy", "--dtype", "float64"), "float32 or float16"),
        (("--to", "npy", "--fit", "other"), "no fit 'other'"),
        (("--to", "npy", "--objects", "nobody"), "nobody"),
    ],
)
def test_wrong_use(root: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = fpipe("export", root, "--out", tmp_path / "out", *arguments)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()
