from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.arrays import ArraySpec, chunk_checksum, decode_chunk, encode_chunk
from storage.documents import crc32c
from storage.errors import IntegrityError


def spec(dtype: str, zstd_level: int | None) -> ArraySpec:
    return ArraySpec("a", (10, 5, 3), (2, 4, 3), dtype, 0, ("object", "x", "y"), zstd_level=zstd_level)


@given(st.sampled_from(["|u1", "<f2", "<f4", "|b1", "<i4"]), st.sampled_from([None, 5]), st.integers(0, 99))
def test_chunks_round_trip(dtype: str, zstd_level: int | None, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 2, (2, 4, 3)).astype(dtype)
    data = encode_chunk(values, spec(dtype, zstd_level))
    assert chunk_checksum(data) == crc32c(data[:-4])
    assert np.array_equal(decode_chunk(data, spec(dtype, zstd_level), "k"), values)


@pytest.mark.parametrize("zstd_level", [None, 5])
def test_flipped_and_cut_chunks_are_found(zstd_level: int | None) -> None:
    form = spec("<f4", zstd_level)
    data = encode_chunk(np.arange(24, dtype=np.float32).reshape(2, 4, 3), form)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        with pytest.raises(IntegrityError, match=r"some/key.*car-7"):
            decode_chunk(bytes(damaged), form, "some/key", "car-7")
        with pytest.raises(IntegrityError):
            decode_chunk(data[:position], form, "k")


def test_wrong_chunk_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a: chunk of shape \(4,\)"):
        encode_chunk(np.zeros(4, np.float32), spec("<f4", None))


def test_chunks_per_row_counts_partial_chunks() -> None:
    assert spec("|u1", None).chunks_per_row() == 2  # ceil(5 / 4) * ceil(3 / 3)
