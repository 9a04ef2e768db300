from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.documents import content_hash, crc32c, differences, dump_document, parse_document, plain
from storage.errors import IntegrityError, SchemaError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_crc32c_matches_the_published_check_value() -> None:
    # RFC 3720, appendix B.4, gives 0x8a9136aa for 32 zero bytes; "123456789" is the usual check string.
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"123456789") == 0xE3069283


@settings(max_examples=40)
@given(st.dictionaries(st.text().filter(lambda name: name not in ("crc32c", "schema_version")), JSON))
def test_documents_round_trip(value: dict[str, object]) -> None:
    assert parse_document(dump_document(value), "k") == value


def test_every_flipped_byte_of_a_document_is_found() -> None:
    data = dump_document({"schema_version": "1.0", "name": "Möbel", "x": [1, 2.5, None], "y": {"z": ""}})
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises((IntegrityError, SchemaError)):
                parse_document(bytes(damaged), "plan/header.json")


def test_unknown_major_is_refused_and_unknown_minor_accepted() -> None:
    assert parse_document(dump_document({"schema_version": "1.7", "new": 1}), "k")["new"] == 1
    with pytest.raises(SchemaError, match=r"k: schema version 2\.0"):
        parse_document(dump_document({"schema_version": "2.0"}), "k")


def test_hash_ignores_key_order_and_sees_values() -> None:
    assert content_hash({"a": 1, "b": (2, 3)}) == content_hash({"b": [2, 3], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 1.5})


def test_differences_name_nested_keys() -> None:
    ours = {"a": {"b": 1, "c": 2}, "d": 3}
    theirs = {"a": {"b": 1, "c": 5}, "e": 4}
    assert differences(ours, theirs) == [
        "a.c: 5 (existing) -> 2 (asked for)",
        "d: '(unset)' (existing) -> 3 (asked for)",
        "e: 4 (existing) -> '(unset)' (asked for)",
    ]


def test_plain_makes_json_values() -> None:
    value = {"a": np.float32(0.5), "b": (np.int64(3), np.array([1.0, np.nan])), 7: math.inf, "t": True}
    assert plain(value) == {"a": 0.5, "b": [3, [1.0, None]], "7": None, "t": True}
