"""Recall@1 and its interval, on cases that are computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.frozen.recall import bootstrap_interval, cosine, euclidean, hits_at_1, standardised

QUERIES = np.array([[0.0, 0.0], [3.0, 4.0]])
GALLERY = np.array([[3.0, 0.0], [0.0, 4.0]])


def test_euclidean_distances() -> None:
    # (0,0) to (3,0) is 3, to (0,4) is 4; (3,4) to (3,0) is 4, to (0,4) is 3.
    np.testing.assert_allclose(euclidean(QUERIES, GALLERY), [[3.0, 4.0], [4.0, 3.0]])


def test_cosine_distances_do_not_see_lengths() -> None:
    # (3,4) has length 5: its cosines with the axes are 3/5 and 4/5, whatever their lengths.
    found = cosine(np.array([[3.0, 4.0], [30.0, 40.0]]), GALLERY)
    np.testing.assert_allclose(found, [[0.4, 0.2], [0.4, 0.2]])
    assert np.isfinite(cosine(QUERIES, GALLERY)).all()  # (0,0) has no direction


def test_standardised_distances_divide_by_the_gallerys_spread() -> None:
    # Deviations in the gallery: 1.5 and 2; then (0,0) is 3/1.5 = 2 from (3,0), and 4/2 = 2 from (0,4).
    np.testing.assert_allclose(standardised(QUERIES, GALLERY), [[2.0, 2.0], [2.0, 2.0]])
    # A coefficient that is 7 in the whole gallery says nothing, whatever a query has there.
    widened = np.column_stack([GALLERY, [7.0, 7.0]])
    np.testing.assert_allclose(
        standardised(np.column_stack([QUERIES, [0.0, 9.0]]), widened), standardised(QUERIES, GALLERY)
    )


def test_a_query_is_found_if_its_own_entry_is_the_nearest() -> None:
    assert hits_at_1(np.array([[1.0, 2.0], [1.0, 2.0]])).tolist() == [1.0, 0.0]


def test_ties_share_a_hit_so_that_a_collapsed_space_gives_chance() -> None:
    assert hits_at_1(np.zeros((4, 4))).mean() == 0.25
    # The second query ties with one other of three: 1/2. The third's match is not among its nearest: 0.
    assert hits_at_1(np.array([[0.0, 1.0, 1.0], [2.0, 2.0, 3.0], [1.0, 1.0, 5.0]])).tolist() == [
        1.0,
        0.5,
        0.0,
    ]


def test_an_object_without_a_code_is_not_found_and_hides_nobody() -> None:
    missing = np.array([[np.nan], [1.0], [2.0]])
    codes = np.array([[0.0], [1.1], [2.1]])
    assert hits_at_1(euclidean(missing, codes)).tolist() == [0.0, 1.0, 1.0]
    assert hits_at_1(euclidean(codes, missing)).tolist() == [0.0, 1.0, 1.0]
    assert hits_at_1(np.full((2, 2), np.nan)).tolist() == [0.0, 0.0]
    assert hits_at_1(standardised(codes, missing)).tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("shape", [(2, 3), (0, 0), (2,)])
def test_only_matched_distances_are_taken(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="N queries and their N matches"):
        hits_at_1(np.zeros(shape))


def test_the_interval_of_two_values_is_known_exactly() -> None:
    # Draws of two from {0, 1} have the mean 0, 1/2, 1 with probability 1/4, 1/2, 1/4: the outer percentiles
    # are 0 and 1.
    assert bootstrap_interval(np.array([0.0, 1.0])) == (0.0, 1.0)


def test_the_interval_is_the_binomials() -> None:
    # 80 hits of 100: a resampled number of hits is binomial(100, 0.8). P(X <= 71) = 0.0200 and P(X <= 72) =
    # 0.0342, so the 2.5th percentile is 72; P(X <= 87) = 0.9747 and P(X <= 88) = 0.9874, so the 97.5th is 88,
    # or 87 where 10,000 draws miss by 0.0003.
    low, high = bootstrap_interval(np.repeat([1.0, 0.0], [80, 20]))
    assert low == pytest.approx(0.72)
    assert 0.87 - 1e-9 <= high <= 0.88 + 1e-9


def test_the_interval_is_seeded_and_leaves_out_what_is_missing() -> None:
    values = np.random.default_rng(3).normal(size=40)
    with_missing = np.append(values, np.nan)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(with_missing, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    assert bootstrap_interval(np.ones(5)) == (1.0, 1.0)
    assert np.isnan(bootstrap_interval(np.array([np.nan]))).all()
