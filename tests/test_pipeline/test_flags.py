"""Flags of fits, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cli.tables import evaluation_text
from pipeline.evaluate import evaluate_dataset
from pipeline.flags import FAR_BELOW_CLASS, NOT_CONVERGED, convergence, fall_db, flag_fits
from pipeline.refinements import with_object_refinement
from storage.plan import read_plan
from tests.test_pipeline.small_dataset import write_fit, write_small_dataset


def flagged(values: list[float], class_names: list[str] | None = None, regime: int = 2) -> list[int]:
    names = class_names or ["car"] * len(values)
    found = flag_fits(np.array(values, np.float32), names, np.full(len(values), regime), {})
    assert all(flag.kind == FAR_BELOW_CLASS for flag in found)
    return [flag.row for flag in found]


def test_three_robust_deviations_below_the_median_by_hand() -> None:
    # Median of eleven values: 30. |x - 30| sorted: 0 0 0 1 1 1 1 1 2 2 d: MAD 1, limit 30 - 4.4478 = 25.5522.
    ten = [30.0, 30.0, 30.0, 29.0, 29.0, 29.0, 31.0, 31.0, 32.0, 32.0]
    assert flagged([*ten, 25.56]) == []
    (flag,) = flag_fits(np.array([*ten, 25.55]), ["car"] * 11, np.full(11, 2), {})
    assert (flag.row, flag.psnr_db, flag.class_median_db) == (10, 25.55, 30.0)
    assert flag.by_db == pytest.approx(4.45)


def test_objects_that_are_all_alike_have_a_decibel_and_a_half() -> None:
    alike = [30.0] * 8  # MAD 0
    assert flagged([*alike, 28.51]) == []
    assert flagged([*alike, 28.49]) == [8]
    assert flagged([*alike, 40.0]) == [], "better is not flagged"
    assert flagged([*alike, 20.0, 10.0]) == [9, 8], "farthest first"


def test_classes_and_regimes_are_compared_among_themselves_and_need_eight_objects() -> None:
    values, names = [30.0] * 7 + [20.0], ["car"] * 8
    assert flagged(values, names) == [7]
    assert flagged(values[1:], names[1:]) == [], "seven"
    assert flagged(values, [*names[1:], "sofa"]) == [], "the only one of its class"
    regime = np.array([2] * 7 + [1])
    assert flag_fits(np.array(values), names, regime, {}) == []
    assert flagged(values, regime=0) == [], "no fits"
    assert flagged([*values, float("nan")], [*names, "car"]) == [7]


def test_a_fall_is_measured_from_the_third_to_the_last_quarter_by_hand() -> None:
    latent = [(20 * i, loss) for i, loss in enumerate([9.0, 8.0, 7.0, 6.0, 3.0, 5.0, 1.0, 3.0], 1)]
    assert fall_db(latent, 160) == pytest.approx(10 * np.log10(2))  # (3 + 5) / 2 against (1 + 3) / 2
    rgb = [(160 + 20 * i, 1.0) for i in range(1, 9)]
    assert fall_db([*latent, *rgb], 160) == 0.0, "the last phase decides"
    assert fall_db([*latent, *rgb[:7]], 160) == pytest.approx(10 * np.log10(2)), "unless it is too short"
    assert fall_db(latent[:7], 160) is None
    assert fall_db([*latent[:7], (160, None)], 160) is None
    assert fall_db([(step, 0.0) for step, _ in latent], 160) is None


def test_fits_that_fell_by_more_than_a_decibel_have_not_converged() -> None:
    falls = {0: 1.01, 1: 0.99, 2: 3.0, 3: 9.0}  # the fourth has no fit
    found = flag_fits(np.full(4, 30.0), ["car"] * 4, np.array([2, 2, 1, 0]), falls)
    assert [(flag.kind, flag.row, flag.by_db) for flag in found] == [
        (NOT_CONVERGED, 2, 3.0),
        (NOT_CONVERGED, 0, 1.01),
    ]


def test_the_record_is_that_of_the_code_that_is_stored() -> None:
    first = {"curve": [[20, 1.0], [30, 0.5]], "steps": [20, 10]}
    better = {"curve": [[5, 0.1]], "steps": [5, 0], "improved": True}
    assert convergence(first) == ([(20, 1.0), (30, 0.5)], 20)
    assert convergence({**first, "refined": better}) == ([(5, 0.1)], 5)
    assert convergence({**first, "refined": {**better, "improved": False}})[1] == 20
    assert convergence({**first, "refined": {**better, "improved": False, "times_improved": 1}}) == ([], 0), (
        "an older refinement's improvement, of which no curve was kept"
    )
    assert convergence({"curve": [[20, 1.0]]}) == ([(20, 1.0)], 20), "older fits do not say the phases"
    assert convergence({}) == ([], 0)


def test_the_record_outlives_refinements_that_improve_nothing() -> None:
    first = {"curve": [[30, 0.5]], "steps": [30, 0]}
    failed = {"failure": "not finite"}
    worse = {"curve": [[7, 0.7]], "steps": [7, 0], "improved": False}
    once = with_object_refinement(first, worse)
    assert convergence(once) == ([(30, 0.5)], 30)
    better = with_object_refinement(once, {"curve": [[5, 0.1]], "steps": [5, 0], "improved": True})
    later = with_object_refinement(with_object_refinement(better, worse), failed)
    for info in (better, later):
        assert convergence(info) == ([(5, 0.1)], 5)
        assert (info["curve"], info["steps"]) == ([[30, 0.5]], [30, 0]), "the first fit's stay"
    assert (later["refined"]["times"], later["refined"]["times_improved"]) == (4, 1)
    assert later["refined"]["failure"] == "not finite"
    best = with_object_refinement(later, {"curve": [[9, 0.05]], "steps": [9, 0], "improved": True})
    assert convergence(best) == ([(9, 0.05)], 9)
    assert convergence(with_object_refinement(best, worse)) == ([(9, 0.05)], 9)


def test_evaluation_names_them(tmp_path: Path) -> None:
    store = write_small_dataset(tmp_path / "data", n_objects=26, classes=("car",))
    write_fit(store, read_plan(store), "spoilt", bad=20)
    found = evaluate_dataset(store.url)["flags"]
    assert (found["far_below_class"], found["not_converged"]) == (1, 1)
    bad, falling = found["objects"]
    assert (bad["object_id"], bad["class_name"], bad["kind"]) == ("object-020", "car", "far_below_class")
    assert bad["by_db"] == pytest.approx(bad["class_median_db"] - bad["psnr_db"], abs=2e-3)
    assert (falling["object_id"], falling["kind"], falling["by_db"]) == ("object-022", "not_converged", 3.01)
    text = evaluation_text(evaluate_dataset(store.url))
    assert "1 object far below their class:\n  object-020 (car): " in text
    assert "object-022 (car): " in text
    assert "3.01 dB fallen at last" in text
    assert "far below" not in evaluation_text(evaluate_dataset(store.url, "base"))
