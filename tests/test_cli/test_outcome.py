"""What a command says at its end: what is left, what comes next, where failures are listed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.outcome import finish_stage
from pipeline.stages import StageResult
from tests.conftest import fpipe
from tests.test_render_jobs.view_files import write_nerfstudio

LOCAL = ("--executor", "local", "--workers", "1")


def test_a_part_of_the_shards_is_followed_by_the_rest(tmp_path: Path) -> None:
    """Imported views, because no Blender starts for them; one of three objects is broken."""
    for name in "abc":
        write_nerfstudio(tmp_path / "in" / name, 3)
    (tmp_path / "in/c/transforms.json").write_text("{")
    root = tmp_path / "root"
    first = fpipe(
        "render", root, "--source", "nerf", "--path", tmp_path / "in", *LOCAL, "--shard", "0", "--json"
    )
    assert first.code == 0, first.err
    assert first.json()["left"] == 2
    assert f"render: 2 shards are left\nnext: fpipe render {root}\n" in first.err
    assert "train-shared" not in first.err
    again = fpipe("render", root, *LOCAL, "--shard", "0")
    assert "2 shards are left" in again.err
    rest = fpipe("render", root, *LOCAL)
    assert rest.code == 42, rest.err
    assert "with 3 objects is used" in rest.err
    assert "shards are left" not in rest.err
    assert f"next: fpipe train-shared {root}" in rest.err
    none = fpipe("failures", root, "--class", "nosuchclass")
    assert "no failed objects of these classes; there are bad_cameras 1" in none.out
    assert fpipe("failures", root, "--stage", "fit").out.strip() == "nothing has been fitted yet"
    exported = fpipe("export", root, "--to", "nerfstudio", "--out", tmp_path / "out")
    assert f"fpipe failures {root} says why" in exported.err


def test_a_failed_object_counts_for_its_own_shard_however_often_that_is_asked_for(tmp_path: Path) -> None:
    """One object in three, each a shard; the members of a job array are started again after they ended."""
    for name in "abc":
        write_nerfstudio(tmp_path / "in" / name, 3)
    (tmp_path / "in/c/transforms.json").write_text("{")
    root = tmp_path / "root"
    source = ("--source", "nerf", "--path", tmp_path / "in")

    def code(*options: str | Path) -> int:
        return fpipe("render", root, *options, *LOCAL).code

    assert code(*source, "--shard", "2") == 42
    assert code("--shard", "0") == 0
    assert code("--shard", "0") == 0, "the failed object is another shard's"
    resumed = fpipe("render", root, *LOCAL)
    assert (resumed.code, resumed.err.count("1 objects failed in 3 shards, 2 of them done before")) == (42, 1)
    again = fpipe("render", root, *LOCAL, "--shard", "1-2", "--json")
    assert (again.code, again.json()["objects_failed"]) == (42, 1)
    assert code("--shard", "9/16") == 0, "no shards at all"


def test_a_render_task_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path / "in/a", 3)
    limits = ("--set", "compute.render_deadline_s=0.001", "--set", "compute.max_attempts=1")
    late = fpipe("render", tmp_path / "root", "--source", "nerf", "--path", tmp_path / "in", *LOCAL, *limits)
    assert late.code == 1
    assert "shard 0: the task was not done within its deadline of 0.001 s" in late.err


def test_shards_of_a_fit_that_are_left_are_those_of_that_fit(capsys: pytest.CaptureFixture[str]) -> None:
    result = StageResult("fit-objects", shards=1, done=1, objects_ok=2, seconds=1.0, left=3)
    assert finish_stage(result, "cars", False, " --name small") == 0
    said = capsys.readouterr().err
    assert "3 shards are left" in said
    assert "next: fpipe fit-objects cars --name small" in said
    assert "report" not in said
