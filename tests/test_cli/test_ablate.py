"""`fpipe ablate` through the command line, on a dataset that has a published fit of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from storage.planes import PlanesStore, published_fit
from storage.store import Store
from tests.conftest import fpipe

SMALL = [
    *("train.objects=4", "train.resolution=16", "train.warmup.steps=4", "train.joint.steps=3"),
    *("fit.latent_steps=4", "fit.rgb_steps=2", "compute.train_cpus=1"),
]


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("ablate") / "dataset"
    shutil.copytree(tiny_dataset, copy)
    return copy


def test_representations_stand_beside_the_datasets_own_fit(dataset: Path, tmp_path: Path) -> None:
    own = tmp_path / "small-ulw.yaml"
    own.write_text("extends: ablation/ulw\ntrain: {autoencoder: {steps: 3}}\n")
    settings = [part for setting in SMALL for part in ("--set", setting)]
    chosen = ["--representation", own, "--representation", "tri-planes"]
    done = fpipe("ablate", dataset, *chosen, *settings, "--json")
    assert done.code == 0, done.err
    ulw, tri_planes = done.json()["rows"]
    assert (ulw["name"], ulw["object_bytes"], ulw["factor"]) == ("small-ulw", 4 * 12, 2)
    assert (tri_planes["name"], tri_planes["n_base"], tri_planes["factor"]) == ("tri-planes", 0, 1)
    assert published_fit(Store(dataset)) == "default"
    assert (dataset / "reports" / "ablation.md").is_file()
    stored = json.loads((dataset / "reports" / "ablation.json").read_text())
    assert stored["rows"] == done.json()["rows"]
    evaluated = fpipe("evaluate", dataset, "--name", "ablation-tri-planes", "--json").json()
    assert evaluated["regime2"]["psnr_db"]["mean"] == tri_planes["psnr_db"]
    assert evaluated["regime2"]["ceiling_psnr_db"]["mean"] is None
    again = fpipe("ablate", dataset, *chosen, *settings)
    assert again.code == 0, again.err
    assert "small-ulw" in again.out
    assert PlanesStore.open(Store(dataset), "ablation-small-ulw").header.f_mic == 0


def test_two_representations_of_one_name_are_refused(tmp_path: Path) -> None:
    own = tmp_path / "ulw.yaml"
    own.write_text("extends: ablation/ulw\ntrain: {n_base: 3}\n")
    done = fpipe("ablate", tmp_path / "none", "--representation", "ulw", "--representation", own)
    assert done.code == 2
    assert f"--representation {own}: ablation/ulw is called 'ulw', too" in " ".join(done.err.split())
    assert not (tmp_path / "none").exists()


def test_an_unknown_representation_is_refused(tmp_path: Path) -> None:
    done = fpipe("ablate", tmp_path / "none", "--representation", "ulws")
    assert done.code == 2
    assert "there are fused-planes, micro-only" in done.err
    assert not (tmp_path / "none").exists()
