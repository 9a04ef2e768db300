from __future__ import annotations

import multiprocessing
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import retries, shards
from storage.errors import IntegrityError, SchemaError, TransientError
from storage.records import Failure, Status
from storage.retries import RetryPolicy
from storage.shards import (
    ObjectRecord,
    Sidecar,
    TailTooShort,
    commit_shard,
    pack_shard,
    read_shard_tail,
    unpack_tail,
)
from storage.store import Store


def sidecar(n: int = 2, attempt: str = "a1", **changes: Any) -> Sidecar:
    objects = [
        ObjectRecord(10 + i, f"car-ü{i}", Status.OK, None, {"s": 1.5}, (7, 2**32 - 1)) for i in range(n)
    ]
    objects[0] = replace(objects[0], status=Status.FAILED, failure=Failure("crash", "why", "tail", "repro"))
    arrays = {
        "cam2world": np.arange(n * 16, dtype=np.float32).reshape(n, 4, 4),
        "heldout": np.ones((n, 3), bool),
        "none": np.zeros((n, 0), np.float32),
    }
    return replace(Sidecar("views", 5, attempt, "hash", tuple(objects), arrays, {"host": "h"}), **changes)


def assert_same(a: Sidecar, b: Sidecar) -> None:
    assert replace(a, arrays={}) == replace(b, arrays={})
    assert a.arrays.keys() == b.arrays.keys()
    for name, values in a.arrays.items():
        assert values.dtype == b.arrays[name].dtype
        assert np.array_equal(values, b.arrays[name], equal_nan=values.dtype.kind == "f")


@given(
    st.lists(st.lists(st.binary(max_size=20), min_size=2, max_size=2) | st.just([]), min_size=1, max_size=5)
)
def test_pack_and_unpack(chunks: list[list[bytes]]) -> None:
    slots, truth = 6, sidecar(len(chunks))
    data = pack_shard(truth, chunks, 2, slots)
    tail = unpack_tail(data, 2 * slots, "k")
    assert_same(tail.sidecar, truth)
    for position in range(slots):
        expected = chunks[position] if position < len(chunks) else []
        places = tail.index[2 * position : 2 * position + 2].tolist()
        if expected:
            assert [data[offset : offset + size] for offset, size in places] == expected
        else:
            assert places == [[2**64 - 1] * 2] * 2
    assert len(data) - tail.n_bytes == sum(len(part) for parts in chunks for part in parts)


def test_shard_without_chunks_is_a_sidecar_alone() -> None:
    data = pack_shard(sidecar(), [[], []], 0, 2)
    assert_same(unpack_tail(data, 0, "k").sidecar, sidecar())
    assert data.endswith(data[-4:]) and len(unpack_tail(data, 0, "k").index) == 0


def test_short_first_read_is_followed_by_one_of_the_right_size(tmp_path: Path) -> None:
    store = Store(tmp_path)
    data = pack_shard(sidecar(), [[], [b"x" * 50, b"y"]], 2, 2)
    store.create("k", data)
    for guess in (10, 80, 200, len(data), 10**6):
        assert_same(read_shard_tail(store, "k", 4, guess).sidecar, sidecar())
    with pytest.raises(TailTooShort):
        unpack_tail(data[-100:], 4, "k")


def test_every_flipped_byte_behind_the_chunks_is_found(tmp_path: Path) -> None:
    data = pack_shard(sidecar(), [[], [b"x" * 50, b"y"]], 2, 2)
    path = tmp_path / "k"
    for position in range(51, len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with pytest.raises((IntegrityError, SchemaError), match=r"^k: "):
            read_shard_tail(Store(tmp_path), "k", 4)


@pytest.mark.parametrize("keep", [0, 3, 51, 200])
def test_torn_files_are_found(tmp_path: Path, keep: int) -> None:
    data = pack_shard(sidecar(), [[], [b"x" * 50, b"y"]], 2, 2)
    Store(tmp_path).create("k", data[:keep])
    with pytest.raises(IntegrityError):
        read_shard_tail(Store(tmp_path), "k", 4)


def test_unknown_major_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SchemaError, match=r"k: schema version 2.1"):
        unpack_tail(pack_shard(sidecar(schema_version="2.1"), [[], []], 0, 2), 0, "k")
    monkeypatch.setattr(shards, "MAGIC", b"FPSHARD\x02")
    data = pack_shard(sidecar(), [[], []], 0, 2)
    monkeypatch.undo()
    with pytest.raises(SchemaError, match="k: schema version 2"):
        unpack_tail(data, 0, "k")


class FaultyStore(Store):
    """Plays a script of faults for `create`: the write is lost, or its answer is."""

    def __init__(self, url: Path, script: list[str]) -> None:
        super().__init__(url)
        self.script = script

    def create(self, key: str, data: bytes) -> bool:
        fault = self.script.pop(0) if self.script else "none"
        if fault == "refused":
            raise TransientError("503")
        created = super().create(key, data)
        if fault == "answer lost":
            raise TransientError("timeout")
        return created if fault != "answered by a retry" else False


@pytest.fixture
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "POLICY", RetryPolicy(attempts=4, base_s=0.0))


@pytest.mark.usefixtures("no_delays")
@pytest.mark.parametrize(
    "script",
    [[], ["refused"], ["refused"] * 3, ["answer lost"], ["answered by a retry"], ["refused", "answer lost"]],
)
@pytest.mark.parametrize("other_first", [False, True])
def test_commit_learns_who_won(tmp_path: Path, script: list[str], other_first: bool) -> None:
    mine, other = (pack_shard(sidecar(attempt=name), [[], []], 0, 2) for name in ("mine", "other"))
    if other_first:
        Store(tmp_path).create("k", other)
    commit = commit_shard(FaultyStore(tmp_path, list(script)), "k", mine, "mine", 0)
    assert (commit.won, commit.attempt) == ((False, "other") if other_first else (True, "mine"))
    assert Store(tmp_path).read("k") == (other if other_first else mine)


@pytest.mark.usefixtures("no_delays")
def test_commit_gives_up_on_a_dead_store(tmp_path: Path) -> None:
    data = pack_shard(sidecar(), [[], []], 0, 2)
    with pytest.raises(TransientError, match="k: commit failed: 503"):
        commit_shard(FaultyStore(tmp_path, ["refused"] * 9), "k", data, "a1", 0)
    assert not Store(tmp_path).exists("k")


def _race(root: Path, name: str, barrier: Barrier, results: Any, n_shards: int) -> None:
    store = Store(root)
    for shard in range(n_shards):
        data = pack_shard(sidecar(attempt=name, shard=shard), [[], [name.encode() * 1000, b"y"]], 2, 2)
        barrier.wait(60)
        commit = commit_shard(store, f"c/{shard}", data, name, 4)
        results.put((shard, name, commit.won, commit.attempt))


def test_of_many_processes_exactly_one_wins_and_all_learn_who(tmp_path: Path) -> None:
    n_writers, n_shards = 4, 25
    context = multiprocessing.get_context("forkserver")
    barrier, results = context.Barrier(n_writers), context.Queue()
    names = [f"w{i}" for i in range(n_writers)]
    writers = [context.Process(target=_race, args=(tmp_path, n, barrier, results, n_shards)) for n in names]
    for writer in writers:
        writer.start()
    answers = [results.get(timeout=60) for _ in range(n_writers * n_shards)]
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    for shard in range(n_shards):
        here = [answer for answer in answers if answer[0] == shard]
        (winner,) = {attempt for _, _, _, attempt in here}
        assert [name for _, name, won, _ in here if won] == [winner]
        data = Store(tmp_path).read(f"c/{shard}")
        assert data.startswith(winner.encode() * 1000)
        assert unpack_tail(data, 4, "k").sidecar.attempt == winner
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]
