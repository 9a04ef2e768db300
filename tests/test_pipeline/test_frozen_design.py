"""Objects, halves and blocks of the comparison."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.frozen.blocks import MODES
from pipeline.frozen.design import HALVES, Design, choose_rows, half_of_views, jobs_of
from storage.errors import UsageError

DESIGN = Design("car", tuple(range(10, 21)), block=4, seed=3)


def test_halves_are_disjoint_and_hold_every_training_view_and_no_other() -> None:
    heldout = np.zeros(9, bool)
    heldout[[2, 5]] = True
    halves = {half: half_of_views(heldout, half, "x", 0) for half in HALVES}
    assert [len(halves[half]) for half in HALVES] == [3, 4]
    assert sorted(np.concatenate(list(halves.values())).tolist()) == [0, 1, 3, 4, 6, 7, 8]
    others = [half_of_views(heldout, "a", *labels).tolist() for labels in (("y", 0), ("x", 1))]
    assert any(other != halves["a"].tolist() for other in others)


def test_one_training_view_has_no_halves() -> None:
    with pytest.raises(UsageError, match="x has 1 training views: two halves need at least 2"):
        half_of_views(np.array([True, False]), "a", "x", 0)


def test_every_object_is_in_one_block_of_each_half_and_mode() -> None:
    jobs = jobs_of(DESIGN)
    assert [job.number for job in jobs] == list(range(3 * 2 * 3))
    assert len({job.name for job in jobs}) == len(jobs)
    for mode in MODES:
        for half in HALVES:
            blocks = [job.rows for job in jobs if job.mode == mode and job.half == half]
            assert [len(rows) for rows in blocks] == [4, 4, 3]
            assert sorted(row for rows in blocks for row in rows) == list(DESIGN.rows)


def test_the_second_half_comes_in_other_company_and_modes_in_the_same() -> None:
    blocks = {(job.mode.name, job.half, job.block): job.rows for job in jobs_of(DESIGN)}
    assert set(blocks["frozen", "a", 0]) != set(blocks["frozen", "b", 0])
    for (_, half, block), rows in blocks.items():
        assert rows == blocks["frozen", half, block]
    assert DESIGN.fit_seed("a") != DESIGN.fit_seed("b")


def test_a_design_survives_json() -> None:
    assert Design.of_json(DESIGN.to_json()) == DESIGN


def test_objects_are_drawn_from_the_class_with_the_most() -> None:
    rows_by_class = {"sofa": [1, 5], "car": [0, 2, 3, 4, 6]}
    name, rows = choose_rows(rows_by_class, None, 3, 0)
    assert name == "car"
    assert set(rows) < {0, 2, 3, 4, 6}
    assert list(rows) == sorted(rows)
    assert choose_rows(rows_by_class, "sofa", 2, 0) == ("sofa", (1, 5))
    assert len({choose_rows(rows_by_class, None, 3, seed)[1] for seed in range(5)}) > 1


def test_too_few_objects_are_refused() -> None:
    with pytest.raises(UsageError, match=r"2 rendered objects of class sofa .* give --objects 2"):
        choose_rows({"sofa": [1, 5]}, None, 3, 0)
    with pytest.raises(UsageError, match=r"class boat is left .* there are: sofa 2"):
        choose_rows({"sofa": [1, 5]}, "boat", 3, 0)
    with pytest.raises(UsageError, match="there are: none"):
        choose_rows({}, None, 3, 0)
