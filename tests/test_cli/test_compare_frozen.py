"""`fpipe compare-frozen` through the command line, on a dataset of toy objects."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from storage.plan import PlanHeader, write_plan
from storage.records import ObjectViews, PlanRow
from storage.store import Store
from storage.views import ViewsStore
from tests.conftest import fpipe
from tests.test_pipeline.toy import SIZE_PX, toy_object, toy_trainer

SETTINGS = [
    *("--set", "fit.latent_steps=3", "--set", "fit.latent_pixels=32", "--set", "fit.samples=6"),
    *("--set", "fit.rgb_steps=2", "--set", "fit.free_points=16", "--executor", "local"),
]


@dataclass(frozen=True)
class Toys:
    """A dataset of four objects, of which two were trained jointly."""

    root: Path
    shared_version: str

    def ask(self, *arguments: str) -> tuple[str, ...]:
        """The command with its usual options."""
        asked = ("--shared", self.shared_version, "--objects", "2", "--block", "2", *SETTINGS)
        return ("compare-frozen", str(self.root), *asked, *arguments)

    def published(self) -> dict[str, str]:
        """Every file that is not a report or the record of a run."""
        return {
            str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and path.relative_to(self.root).parts[0] not in ("reports", "runs")
        }


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Toys:
    root = tmp_path_factory.mktemp("compare") / "dataset"
    store, objects = Store(root), [toy_object(seed) for seed in range(4)]
    rows = [PlanRow(i, toy.object_id, "ball", "test", "", f"f{i}") for i, toy in enumerate(objects)]
    header = PlanHeader(
        n_objects=4, n_views=6, height=SIZE_PX, width=SIZE_PX, objects_per_views_shard=len(rows)
    )
    views = ViewsStore.create_or_open(store, write_plan(store, header, rows))
    with views.builder(0, "views") as builder:
        for row, toy in enumerate(objects):
            arrays = (toy.images, toy.cam2world, toy.intrinsics, toy.heldout)
            builder.add(row, ObjectViews(*arrays, np.eye(4, dtype=np.float32)))
        builder.commit()
    views.publish(0)
    trainer = toy_trainer(n_objects=2)
    while trainer.phase != "done":
        trainer.step()
    return Toys(root, trainer.shared_components().freeze().save(store, trainer.codes()))


def test_the_comparison_from_command_to_table_and_again(toys: Toys) -> None:
    before = toys.published()
    done = fpipe(*toys.ask("--json"))
    assert done.code == 0, done.err
    found = done.json()
    assert [row["mode"] for row in found["rows"]] == ["frozen", "decoder", "retrained"]
    frozen, decoder, retrained = found["rows"]
    assert frozen["steps"] == [3, 2]
    assert frozen["own_bytes"] == 0 < decoder["own_bytes"] < retrained["own_bytes"]
    assert decoder["object_bytes"] == frozen["object_bytes"] + decoder["own_bytes"] / 2
    assert (found["class"], found["objects"], frozen["chance"]) == ("ball", 2, 0.5)
    for row in found["rows"]:
        assert row["failures"] == []
        assert row["psnr_db"] > 5
        assert 0 <= row["recall_at_1"][found["measure"]] <= 1
    reports = toys.root / "reports"
    assert json.loads((reports / "frozen-choice.json").read_text())["rows"] == found["rows"]
    assert "| everything frozen |" in (reports / "frozen-choice.md").read_text()

    results = reports / "frozen-choice"
    settings = json.loads((results / "settings.json").read_text())
    assert settings["design"]["rows"] == [2, 3]  # 0 and 1 were trained jointly
    (results / "retrained-b-000.npz").unlink()
    kept = {path: path.stat().st_mtime_ns for path in results.iterdir()}
    again = fpipe(*toys.ask())
    assert again.code == 0, again.err
    assert "re-trained per block" in again.out
    assert (results / "retrained-b-000.npz").is_file()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept

    other = fpipe(*toys.ask("--seed", "1"))
    assert other.code == 4
    assert "design.seed: 0 (existing) -> 1 (asked for)" in " ".join(other.err.split())
    assert toys.published() == before


def test_what_cannot_be_compared_is_refused_before_anything_runs(toys: Toys) -> None:
    done = fpipe(*toys.ask("--name", "refused", "--set", "fit.rgb_steps=0"))
    assert done.code == 2
    assert "fit.rgb_steps is 0" in " ".join(done.err.split())
    assert not (toys.root / "reports" / "refused").exists()


def test_without_shared_components_the_next_command_is_named(toys: Toys) -> None:
    done = fpipe("compare-frozen", toys.root)
    assert done.code == 2
    assert "run fpipe train-shared" in " ".join(done.err.split())
