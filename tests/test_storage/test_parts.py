from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.mapped_files import MAPPED_FILES, MappedFiles, on_a_disk
from storage.parts import Part, fill_from_file, fill_from_memory, neighbours

CONTENT = bytes(range(200))


def part(key: str, start: int, *sizes: int) -> Part:
    buffers = tuple(np.zeros(size, np.uint8).data for size in sizes)
    return Part(key, start, start + sum(sizes), buffers)


places = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 300), st.integers(1, 50)), max_size=30)


@given(places, st.integers(0, 60), st.integers(1, 200))
def test_every_part_is_read_once_within_the_limits(
    wanted: list[tuple[str, int, int]], gap: int, most: int
) -> None:
    parts = [part(*one) for one in wanted]
    runs = neighbours(parts, gap, most)
    assert sorted(position for run in runs for position in run) == list(range(len(parts)))
    for run in runs:
        own = [parts[position] for position in run]
        assert len({one.key for one in own}) == 1
        assert len(own) == 1 or own[-1].end - own[0].start <= most
        for before, after in itertools.pairwise(own):
            assert 0 <= after.start - before.end <= gap


def test_buffers_are_filled_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    preadv = os.preadv
    for most in (1 << 20, 7):  # a system call may read less than asked for
        monkeypatch.setattr(
            os, "preadv", lambda fd, mv, at, most=most: preadv(fd, [m[:most] for m in mv[:1]], at)
        )
        own = part("f", 30, 20, 4, 50)
        fill_from_file(str(path), own)
        assert b"".join(own.buffers) == CONTENT[30:104]
    own = part("f", 30, 20, 4, 50)
    fill_from_memory(memoryview(CONTENT), own)
    assert b"".join(own.buffers) == CONTENT[30:104]


def test_the_end_of_the_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    with pytest.raises(EOFError, match="ends before byte 210"):
        fill_from_file(str(path), part("f", 190, 8, 12))
    with pytest.raises(EOFError, match="ends before byte 210"):
        fill_from_memory(memoryview(CONTENT), part("f", 190, 8, 12))


def test_a_replaced_file_is_mapped_anew(tmp_path: Path) -> None:
    files, path = MappedFiles(), tmp_path / "f"
    path.write_bytes(b"old")
    first = files.open(str(path))
    assert files.open(str(path)) is first and bytes(first) == b"old"
    (tmp_path / "new").write_bytes(b"newer")
    (tmp_path / "new").replace(path)
    assert bytes(files.open(str(path))) == b"newer" and bytes(first) == b"old"
    path.unlink()
    with pytest.raises(FileNotFoundError):
        files.open(str(path))
    path.write_bytes(b"")
    assert bytes(files.open(str(path))) == b""


def test_few_files_stay_mapped(tmp_path: Path) -> None:
    files = MappedFiles()
    for number in range(MAPPED_FILES + 3):
        (tmp_path / str(number)).write_bytes(b"x")
        files.open(str(tmp_path / str(number)))
    assert len(files._files) == MAPPED_FILES and str(tmp_path / "0") not in files._files


def test_network_file_systems_are_no_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = "/dev/vda / ext4 rw 0 0\nhost:/x /mnt/shared nfs4 rw 0 0\n"
    mounts += "/dev/vdb /mnt/shared/scratch\\0401 xfs rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda self: mounts)
    assert on_a_disk(Path("/data/cars")) and not on_a_disk(Path("/mnt/shared/cars"))
    assert on_a_disk(Path("/mnt/shared/scratch 1/cars"))
    assert on_a_disk(Path("/mnt/sharedness"))
