"""Plain files of codes: one per object, tar files, and raw records without any format."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.store_data import CONNECTIONS, Codes, Data, file_system, of_record, stacked


class Files:
    """A file per object; subclasses say in which format."""

    suffix = ""

    def __init__(self, root: str, data: Data) -> None:
        self._root, self._data = root, data
        self._fs: Any = None

    def encode(self, micro: NDArray[Any], coefficients: NDArray[Any]) -> bytes:
        raise NotImplementedError

    def decode(self, data: bytes) -> Codes:
        raise NotImplementedError

    def load(self, path: str) -> Codes:
        return self.decode(Path(path).read_bytes())

    def write(self) -> None:
        self.open()
        files = {
            self._path(i): self.encode(self._data.micro[i], self._data.coefficients[i])
            for i in range(len(self._data))
        }
        if self._fs is not None:
            self._fs.pipe(files)
            return
        Path(self._root).mkdir(parents=True)
        for path, content in files.items():
            Path(path).write_bytes(content)

    def open(self) -> None:
        self._fs = file_system(self._root)

    def _path(self, position: int) -> str:
        return f"{self._root}/{position:06d}{self.suffix}"

    def one(self, position: int) -> Codes:
        path = self._path(position)
        return self.load(path) if self._fs is None else self.decode(self._fs.cat_file(path))

    def batch(self, positions: Sequence[int]) -> Codes:
        paths = [self._path(position) for position in positions]
        if self._fs is None:
            return stacked([self.load(path) for path in paths])
        found = self._fs.cat_ranges(paths, [0] * len(paths), [None] * len(paths))
        return stacked([self.decode(content) for content in found])


class Npy(Files):
    """One `.npy` per object, a record of both arrays."""

    suffix = ".npy"

    def encode(self, micro: NDArray[Any], coefficients: NDArray[Any]) -> bytes:
        value = np.empty((), self._data.record)
        value["micro"], value["coefficients"] = micro, coefficients
        out = io.BytesIO()
        np.save(out, value)
        return out.getvalue()

    def decode(self, data: bytes) -> Codes:
        return of_record(np.load(io.BytesIO(data)))

    def load(self, path: str) -> Codes:
        return of_record(np.load(path))


class Safetensors(Files):
    """One safetensors file per object."""

    suffix = ".safetensors"

    def encode(self, micro: NDArray[Any], coefficients: NDArray[Any]) -> bytes:
        import safetensors.numpy

        return safetensors.numpy.save({"micro": micro, "coefficients": coefficients})

    def decode(self, data: bytes) -> Codes:
        import safetensors.numpy

        found = safetensors.numpy.load(data)
        return found["micro"], found["coefficients"]

    def load(self, path: str) -> Codes:
        import safetensors.numpy

        found = safetensors.numpy.load_file(path)
        return found["micro"], found["coefficients"]


class Tar:
    """Tar files of two `.npy` per object, as webdataset has them: read in order, with tarfile."""

    one = batch = None

    def __init__(self, root: str, data: Data) -> None:
        self._root, self._data = root, data

    def write(self) -> None:
        self.open()
        n, shard = len(self._data), self._data.objects_per_shard
        for number, start in enumerate(range(0, n, shard)):
            out = io.BytesIO()
            with tarfile.open(fileobj=out, mode="w") as tar:
                for position in range(start, min(n, start + shard)):
                    for name in ("micro", "coefficients"):
                        content = io.BytesIO()
                        np.save(content, getattr(self._data, name)[position])
                        member = tarfile.TarInfo(f"{position:06d}.{name}.npy")
                        member.size = content.tell()
                        content.seek(0)
                        tar.addfile(member, content)
            if self._fs is not None:
                self._fs.pipe_file(self._path(number), out.getvalue())
            else:
                Path(self._root).mkdir(parents=True, exist_ok=True)
                Path(self._path(number)).write_bytes(out.getvalue())

    def open(self) -> None:
        self._fs = file_system(self._root)

    def _path(self, number: int) -> str:
        return f"{self._root}/{number:06d}.tar"

    def _file(self, path: str) -> Any:
        return Path(path).open("rb") if self._fs is None else io.BytesIO(self._fs.cat_file(path))

    def stream(self) -> Iterator[Codes]:
        """Yield all objects, tar by tar."""
        for number in range(-(-len(self._data) // self._data.objects_per_shard)):
            path = self._path(number)
            with self._file(path) as source, tarfile.open(fileobj=source, mode="r|") as tar:
                found: dict[str, NDArray[Any]] = {}
                for member in tar:
                    file = tar.extractfile(member)
                    assert file is not None
                    found[member.name.split(".")[1]] = np.load(io.BytesIO(file.read()))
                    if len(found) == 2:
                        yield found["micro"], found["coefficients"]
                        found = {}


class Ceiling:
    """No format at all: records one after the other, at known offsets. A memory-mapped file, or raw GETs."""

    def __init__(self, root: str, data: Data) -> None:
        self._root, self._data = root, data
        self._size, self._shard = data.record.itemsize, data.objects_per_shard

    def write(self) -> None:
        records, fs = self._data.records(), file_system(self._root)
        if fs is None:
            Path(self._root).mkdir(parents=True)
            records.tofile(f"{self._root}/all")
            return
        for number, start in enumerate(range(0, len(records), self._shard)):
            fs.pipe_file(f"{self._root}/{number}", records[start : start + self._shard].tobytes())

    def open(self) -> None:
        if "://" in self._root:
            from tests.benchmarks.raw_get import RawGet

            self._get: Any = RawGet(self._root, CONNECTIONS)
        else:
            self._get = None
            self._records = np.memmap(f"{self._root}/all", self._data.record, "r")

    def one(self, position: int) -> Codes:
        if self._get is None:
            return of_record(self._records[position])
        return stacked_records(self._read([position]), self._data.record, 0)

    def batch(self, positions: Sequence[int]) -> Codes:
        if self._get is None:
            return self._records["micro"][positions], self._records["coefficients"][positions]
        return stacked_records(self._read(positions), self._data.record)

    def _read(self, positions: Sequence[int]) -> list[bytes]:
        places = [divmod(position, self._shard) for position in positions]
        spans = [(str(number), at * self._size, (at + 1) * self._size) for number, at in places]
        found: list[bytes] = self._get.read(spans)
        return found


def stacked_records(found: list[bytes], record: np.dtype[Any], one: int | None = None) -> Codes:
    """Return records that were read as a batch, or one of them."""
    values = [np.frombuffer(data, record)[0] for data in found]
    return stacked([(v["micro"], v["coefficients"]) for v in values]) if one is None else of_record(values[0])
