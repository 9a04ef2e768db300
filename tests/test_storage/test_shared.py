from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from storage.errors import IntegrityError, UsageError
from storage.shared import list_shared_versions, parse_safetensors, read_base_planes, read_shared_meta
from storage.store import Store

from .builders import SHARED_VERSION, base_planes, safetensors_bytes, write_shared


def test_base_planes_and_meta(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write_shared(store)
    assert np.array_equal(read_base_planes(store, SHARED_VERSION), base_planes())
    assert read_shared_meta(store, SHARED_VERSION)["box_half"] == 0.55
    store.create("shared/published.json", b"{}")
    store.create("shared/unfinished/base_planes.safetensors", b"")
    assert list_shared_versions(store) == [SHARED_VERSION]


def test_reads_what_the_safetensors_library_writes() -> None:
    library = pytest.importorskip("safetensors.numpy")
    tensors = {
        "a": np.arange(6, dtype=np.float16).reshape(2, 3),
        "b": np.array([1, -2], np.int64),
        "c": np.zeros((0, 4), np.float32),
        "d": np.array([True, False]),
    }
    read = parse_safetensors(library.save(tensors, {"k": "v"}), "k")
    assert read.keys() == tensors.keys()
    for name, values in tensors.items():
        assert read[name].dtype == values.dtype and np.array_equal(read[name], values)


@pytest.mark.parametrize("data", [b"", b"123", b"\xff" * 40, safetensors_bytes({"a": np.ones(4)})[:-1]])
def test_damaged_files_are_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"^k: not a readable safetensors file"):
        parse_safetensors(data, "k")


def test_missing_versions_and_tensors(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(UsageError, match=r"has no shared/v1/shared.json.*fpipe train-shared"):
        read_shared_meta(store, "v1")
    store.create("shared/v1/base_planes.safetensors", safetensors_bytes({"wrong": np.ones(3)}))
    with pytest.raises(IntegrityError, match=r"has \['wrong'\], but no base_planes"):
        read_base_planes(store, "v1")
    store.create("shared/v1/shared.json", b"[1")
    with pytest.raises(IntegrityError, match="not valid JSON"):
        read_shared_meta(store, "v1")
