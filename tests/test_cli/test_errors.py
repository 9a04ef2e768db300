"""Wrong use: one clear line on stderr, the right exit code, nothing written."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from cli.main import app
from render_jobs.sources.procedural import write_object
from tests.conftest import TINY, fpipe


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ("render", "ROOT", "--set", "render.vews=3"),
            4,
            "render.vews: no such setting, did you mean render.views?",
        ),
        (("render", "ROOT", "--set", "render.views=none"), 4, "render.views"),
        (("render", "ROOT", "--set", "render.views"), 4, "section.key=value"),
        (("render", "ROOT", "--set", "render.width=100"), 4, "multiple of 8"),
        (("render", "ROOT", "--preset", "nonesuch"), 4, "no preset 'nonesuch'"),
        (("render", "ROOT", "--source", "shapenet", "--path", "/no/such/folder"), 2, "/no/such/folder"),
        (("render", "ROOT", "--source", "shapenet"), 2, "--path"),
        (("render", "ROOT", "--source", "folder"), 2, "--path"),
        (("render", "ROOT", "--source", "meshes"), 2, "procedural, shapenet, folder, morphable"),
        (("render", "ROOT", "--set", "source.kind=meshes"), 4, "source.kind"),
        (("render", "ROOT", "--source", "morphable"), 2, "face:1000"),
        (
            ("render", "ROOT", "--source", "morphable", "--path", "/no/model.h5", "--classes", "face:2"),
            2,
            "/no/model.h5",
        ),
        (("render", "ROOT", "--classes", "car:2", "--up", "z"), 4, "source procedural takes no up"),
        (("render", "ROOT", "--source", "shapenet", "--path", "/x", "--up", "up"), 4, "source.up"),
        (
            ("render", "ROOT", "--source", "shapenet", "--path", "/x", "--up", "z", "--front", "z"),
            4,
            "--front",
        ),
        (("render", "ROOT", "--classes", "car:x"), 2, "car:1000"),
        (("render", "ROOT", "--classes", "unicorn:3"), 2, "unicorn"),
        (("render", "ROOT", "--preset", str(TINY), "--shard", "99"), 2, "shard 99 does not exist"),
        (("render", "/proc/fpipe/root", "--preset", str(TINY)), 3, "no folder can be made there"),
        (("render", "ROOT", "--classes", "car:3,02958343:2"), 2, "car is named twice"),
        (("plan", "ROOT", "--source", "shapenet", "--path", "/no/such/folder"), 2, "/no/such/folder"),
        (("train-shared", "ROOT"), 2, "no dataset at"),
        (("fit-objects", "ROOT"), 2, "no dataset at"),
        (("status", "ROOT"), 2, "no dataset at"),
        (("evaluate", "ROOT"), 2, "no dataset at"),
        (("report", "ROOT"), 2, "no dataset at"),
        (("info", "ROOT"), 2, "no dataset at"),
        (("info",), 2, "needs a dataset"),
        (("nonesuch",), 2, "nonesuch"),
    ],
)
def test_one_clear_line(arguments, code, said, tmp_path):
    root = tmp_path / "dataset"
    done = fpipe(*(str(root) if argument == "ROOT" else argument for argument in arguments))
    assert done.code == code, done.err
    assert said in done.err
    assert "Traceback" not in done.err
    if "--shard" not in arguments:
        assert len([line for line in done.err.splitlines() if line.startswith("fpipe:")]) <= 1
        assert not root.exists()


def test_the_environment_sets_values_and_unknown_ones_are_refused(tmp_path):
    done = fpipe("render", tmp_path / "d", FPIPE_RENDER__VIEWS="zero")
    assert done.code == 4
    assert "render.views" in done.err
    done = fpipe("render", tmp_path / "d", FPIPE_RENDER__NONESUCH="1")
    assert done.code == 4
    assert "render.nonesuch" in done.err


def test_plan_without_calibration_prints_counts_and_writes_nothing(tmp_path):
    root = tmp_path / "dataset"
    arguments = ("--source", "procedural", "--classes", "car:30,sofa:12", "--views", "20", "--no-calibrate")
    passes = ("--resolution", "64", "--set", "render.passes=[depth]")
    done = fpipe("plan", root, *arguments, *passes, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["objects"] == 42
    assert found["views"] == 840
    assert found["classes"] == {"car": 30, "sofa": 12}
    assert found["bytes"]["planes_per_object"] > 0
    assert found["bytes"]["passes_per_object"] == {"depth": 20 * 64 * 64 * 5 // 2}
    assert found["bytes"]["passes"] == {"depth": 42 * 20 * 64 * 64 * 5 // 2}
    assert not root.exists()


@pytest.mark.parametrize(
    ("source", "classes", "counts"),
    [
        ("procedural", "car:4,sofa:2,chair:3", {"car": 4, "sofa": 2, "chair": 3}),
        ("shapenet", "car:2,sofa:1", {"car": 2, "sofa": 1}),
        ("folder", "car:1,sofa:2", {"car": 1, "sofa": 2}),
        ("morphable", "face:3", {"face": 3}),
    ],
)
def test_every_source_gives_the_numbers_asked_for(source, classes, counts, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.forecast.worker_memory", lambda config, n_objects: None)  # takes seconds
    arguments = ["--source", source, "--classes", classes, "--no-calibrate", "--json"]
    if source in {"shapenet", "folder"}:
        for name, n in (("car", 3), ("sofa", 2)):
            for k in range(n):
                write_object(name, k, tmp_path / "meshes")
        arguments += ["--path", str(tmp_path / "meshes")]
    done = CliRunner().invoke(app, ["plan", str(tmp_path / "dataset"), *arguments])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["classes"] == counts


def test_a_file_in_place_of_the_root(tmp_path):
    (tmp_path / "file").write_text("x")
    done = fpipe("render", tmp_path / "file", "--preset", str(TINY))
    assert done.code in (2, 3), done.err
    assert "Traceback" not in done.err


def test_help_names_every_command():
    done = fpipe("--help")
    for name in (
        "demo",
        "doctor",
        "plan",
        "render",
        "train-shared",
        "fit-objects",
        "status",
        "evaluate",
        "report",
        "info",
    ):
        assert name in done.out
