from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.model.shared import read_meta
from pipeline.train.curve_file import NAME, phase_totals, read_curve, write_curve
from pipeline.train.joint import CurvePoint
from storage.errors import IntegrityError
from storage.layout import run_folder
from storage.store import Store
from tests.test_pipeline.disc_training import disc_dataset, train_discs


def _points(warmup: int, joint: int) -> list[CurvePoint]:
    rng = np.random.default_rng(0)

    def losses(*names: str) -> dict[str, float]:
        return {name: float(np.float32(rng.random())) for name in names}

    first = [CurvePoint(i + 1, "warmup", losses("latent", "free"), 0.5) for i in range(warmup)]
    then = [CurvePoint(warmup + i + 1, "joint", losses("latent", "rgb", "ae"), 0.25) for i in range(joint)]
    return [*first, *then]


def test_every_step_comes_back(tmp_path: Path) -> None:
    store, points = Store(tmp_path), _points(3, 4)
    write_curve(store, "run", points)
    assert read_curve(store, "run") == [(p.step, p.phase, p.losses) for p in points]
    assert phase_totals(points) == {
        "warmup": {"steps": 3, "seconds": 1.5},
        "joint": {"steps": 4, "seconds": 1.0},
    }
    store.replace(f"run/{NAME}", store.read(f"run/{NAME}")[:-5])
    with pytest.raises(IntegrityError):
        read_curve(store, "run")
    with pytest.raises(FileNotFoundError):
        read_curve(store, "other-run")


def test_a_step_takes_few_bytes(tmp_path: Path) -> None:
    store, points = Store(tmp_path), _points(2000, 3000)
    write_curve(store, "run", points)
    # Step and seconds, and two or three losses, of four bytes each.
    assert store.size(f"run/{NAME}") < 2000 * 16 + 3000 * 20 + 2000


def test_what_every_fit_task_reads_holds_numbers_alone(tmp_path: Path) -> None:
    store = disc_dataset(tmp_path)
    info = read_meta(store, train_discs(store))["info"]
    assert info["steps"] == 12
    assert {phase: own["steps"] for phase, own in info["phases"].items()} == {
        "autoencoder": 4,
        "warmup": 4,
        "joint": 4,
    }
    assert sum(own["seconds"] for own in info["phases"].values()) == pytest.approx(info["seconds"], abs=0.01)
    assert len(json.dumps({name: part for name, part in info.items() if name != "train_config"})) < 500
    rows = read_curve(store, run_folder("train-shared", info["train_hash"]))
    assert [(step, phase) for step, phase, _ in rows[3:5]] == [(4, "autoencoder"), (5, "warmup")]
    assert rows[-1][2].keys() == {"latent", "rgb", "ae", "free"}
