from __future__ import annotations

import itertools

import numpy as np
import pytest

from storage.sketch import N_BINS, QUANTILE_ERROR, ChannelSketch, fused_planes, sketch_fits

QUANTILES = (0.0, 0.001, 0.01, 0.5, 0.9, 0.999, 1.0)


def draws(seed: int, n: int = 500) -> np.ndarray:
    """Channels of very different kind: wide, narrow around a large mean, heavy-tailed, discrete, constant."""
    rng = np.random.default_rng(seed)
    rows = [
        rng.normal(size=n) * 3,
        1000 + rng.normal(size=n) * 1e-2,
        np.sinh(rng.normal(size=n) * 3),
        rng.integers(-2, 3, n),
        np.full(n, -0.25),
        np.abs(rng.normal(size=n)) * 1e-3,
    ]
    return np.stack(rows).astype(np.float32)


def sketch(parts: list[np.ndarray]) -> ChannelSketch:
    total = ChannelSketch.empty(len(parts[0]))
    for part in parts:
        total = total.merged(ChannelSketch.of_object(part))
    return total


def test_figures_are_those_of_all_values_together() -> None:
    parts = [draws(seed, 100 + 50 * seed) for seed in range(4)]
    found, values = sketch(parts), np.concatenate(parts, axis=1).astype(np.float64)
    assert (found.n_objects, found.count) == (4, values.shape[1])
    np.testing.assert_allclose(found.mean, values.mean(axis=1), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found.std, values.std(axis=1), rtol=1e-10, atol=1e-12)
    assert np.array_equal(found.low, values.min(axis=1)) and np.array_equal(found.high, values.max(axis=1))
    assert np.array_equal(found.bins.sum(axis=1), np.full(6, found.count))


@pytest.mark.parametrize("q", QUANTILES)
def test_quantiles_are_within_the_stated_error(q: float) -> None:
    parts = [draws(seed) for seed in range(10)]
    exact = np.quantile(np.concatenate(parts, axis=1).astype(np.float64), q, axis=1, method="lower")
    assert (np.abs(exact) > 2.0**-16).any()
    error = np.abs(sketch(parts).quantile(q) - exact)
    assert np.all(error <= np.maximum(QUANTILE_ERROR * np.abs(exact), 2.0**-16) * (1 + 1e-12))


def test_the_stated_error_holds_at_the_edges_of_every_bin_and_is_reached() -> None:
    """One value per channel, so that every quantile between is that value's bin."""
    edges = 2.0 ** np.arange(-16, 20)[:, None] * (1 + np.arange(32) / 32)
    lower = edges.ravel().astype(np.float32)
    worst = 0.0
    for values in (
        lower,
        -lower,
        np.nextafter(lower, np.float32(np.inf)),
        np.nextafter(lower[1:], np.float32(0)),
    ):
        # [-2^21, v, v, 2^21]: the extremes stay out of the way of the middle ranks
        far = np.full_like(values, 2.0**21)
        found = ChannelSketch.of_object(np.stack([-far, values, values, far], axis=1)).quantile(0.5)
        worst = max(worst, float((np.abs(found - values) / np.abs(values)).max()))
    assert worst == pytest.approx(QUANTILE_ERROR, rel=1e-6)


def test_tiny_huge_and_zero_values_are_counted() -> None:
    values = np.float32([[0.0, -0.0, 1e-30, -1e-9, 65504.0, -3e38]])
    found = ChannelSketch.of_object(values)
    assert found.bins[0, N_BINS // 2] == 4 and found.bins.sum() == 6
    assert (found.quantile(0.0)[0], found.quantile(1.0)[0]) == (values.min(), values.max())
    assert found.quantile(0.5)[0] == 0.0


def test_merging_in_any_order_gives_the_same() -> None:
    parts = [ChannelSketch.of_object(draws(seed, 60)) for seed in range(4)]
    reference = parts[0].merged(parts[1]).merged(parts[2]).merged(parts[3])
    for order in itertools.permutations(parts):
        merged = order[0].merged(order[1]).merged(order[2].merged(order[3]))
        assert np.array_equal(merged.bins, reference.bins)
        assert np.array_equal(merged.low, reference.low) and np.array_equal(merged.high, reference.high)
        assert (merged.count, merged.n_objects) == (reference.count, reference.n_objects)
        np.testing.assert_allclose(merged.mean, reference.mean, rtol=1e-13)
        np.testing.assert_allclose(merged.m2, reference.m2, rtol=1e-9, atol=1e-12)


def test_an_empty_sketch_changes_nothing() -> None:
    own, empty = ChannelSketch.of_object(draws(1)), ChannelSketch.empty(6)
    assert own.merged(empty).encode() == empty.merged(own).encode() == own.encode()
    assert np.isnan(empty.quantile(0.5)).all()


@pytest.mark.parametrize("times", [1, 300, 70_000])
def test_encoding_is_exact(times: int) -> None:
    """Counts of one, two and four bytes."""
    own = ChannelSketch.of_object(draws(2, 40))
    own = ChannelSketch(9, times * own.count, own.mean, own.m2, own.low, own.high, own.bins * times)
    back = ChannelSketch.decode(own.encode())
    for name in ("mean", "m2", "low", "high", "bins"):
        assert np.array_equal(getattr(back, name), getattr(own, name)), name
    assert (back.n_objects, back.count) == (9, own.count)


def test_foreign_bytes_are_refused() -> None:
    data = bytearray(ChannelSketch.of_object(draws(3)).encode())
    data[4] = 2
    with pytest.raises(ValueError, match="form"):
        ChannelSketch.decode(bytes(data))


def test_a_quantile_beyond_the_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1\.5"):
        ChannelSketch.of_object(draws(3)).quantile(1.5)


def fits(n: int) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(4)
    micro = [rng.normal(size=(3, 2, 4, 4)).astype(np.float16) for _ in range(n)]
    coefficients = [rng.normal(size=5).astype(np.float32) for _ in range(n)]
    return micro, coefficients, rng.normal(size=(5, 3, 1, 4, 4)).astype(np.float32)


def test_fused_planes_are_micro_planes_then_the_weighted_sum_of_base_planes() -> None:
    micro, coefficients, base = fits(3)
    both = list(fused_planes(micro, coefficients, base))
    assert len(both) == 3
    for planes, own, weights in zip(both, micro, coefficients, strict=True):
        assert planes.dtype == np.float32 and np.array_equal(planes[:, :2], own)
        expected = sum(w * b for w, b in zip(weights.astype(np.float64), base, strict=True))
        np.testing.assert_allclose(planes[:, 2:], expected, rtol=1e-5, atol=1e-6)


def test_fused_planes_without_micro_or_base_planes() -> None:
    micro, coefficients, base = fits(3)
    both = np.stack(list(fused_planes(micro, coefficients, base)))
    assert np.array_equal(list(fused_planes(None, coefficients, base)), both[:, :, 2:])
    assert np.array_equal(list(fused_planes(micro, [w[:0] for w in coefficients], None)), both[:, :, :2])


def test_the_statistics_of_many_objects_are_those_of_each_merged() -> None:
    """More objects than are fused at a time, and not a multiple of it."""
    micro, coefficients, base = fits(37)
    found = sketch_fits(zip(micro, coefficients, strict=True), base)
    planes = [each.reshape(9, -1) for each in fused_planes(micro, coefficients, base)]
    expected = sketch(planes)
    assert found is not None and found.n_objects == 37
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.m2, expected.m2, rtol=1e-5)
    is_micro = np.array([True, True, False] * 3)  # rounding of a matrix product may depend on its size
    assert np.array_equal(found.bins[is_micro], expected.bins[is_micro])
    assert np.abs(found.bins - expected.bins).sum() <= 2 * 3
    assert sketch_fits([], base) is None


def test_every_bit_pattern_is_counted_in_the_bin_of_its_magnitude() -> None:
    """One value of every cut pattern, of both signs, against the bins' definition by logarithms."""
    patterns = ((np.arange(1 << 14, dtype=np.uint32) << 18) + 12345).view(np.float32)
    values = patterns[np.isfinite(patterns)]
    size = np.abs(values.astype(np.float64))
    octave = np.floor(np.log2(size))
    step = (octave + 16) * 32 + np.floor((size / 2.0**octave - 1) * 32) + 1
    step = np.clip(np.where(size < 2.0**-16, 0, step), 0, N_BINS // 2).astype(int)
    expected = np.bincount(N_BINS // 2 + np.where(values < 0, -step, step), minlength=N_BINS)
    with np.errstate(over="ignore"):
        found = ChannelSketch.of_object(np.minimum(values, np.float32(1e30))[None])
    assert np.array_equal(found.bins[0], expected)
