"""Ways to store the codes of many objects, with one interface: ours, and what people use instead.

An object is its micro planes and its coefficients, as they are fitted. Every way writes the same arrays, and
every read returns arrays of its own, in the stored types, the micro planes [.., 3, F, K, K] in float16.
Ways that can read several objects at once in their own way do so; a plain file per object is read with the
concurrent `cat` of fsspec on S3.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from storage.documents import dump_document
from storage.plan import PlanHeader, choose_objects_per_shard, write_plan
from storage.planes import FitHeader, PlanesStore, publish_fit
from storage.reader import open_planes
from storage.records import ObjectFit, PlanRow
from storage.store import Store

Codes = tuple[NDArray[Any], NDArray[Any]]  # micro planes, coefficients
CONNECTIONS = 64
F_MACRO = 5  # channels of base planes; only writing our statistics needs them
S3_OPTIONS: dict[str, Any] = {
    "config_kwargs": {"max_pool_connections": CONNECTIONS},
    "max_concurrency": 1,  # or s3fs asks for the size of every file before it reads it
    "use_listings_cache": False,
}


@dataclass(frozen=True)
class Data:
    """What is stored.

    Attributes:
        micro: f16 [N, 3, F, K, K].
        coefficients: f32 [N, M].
    """

    micro: NDArray[np.float16]
    coefficients: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.micro)

    @property
    def n_bytes(self) -> int:
        return self.micro.nbytes + self.coefficients.nbytes

    @property
    def objects_per_shard(self) -> int:
        """Objects in a file of at most 32 MB, for ways that put several into one."""
        return choose_objects_per_shard(len(self), self.n_bytes // len(self), workers=1)

    @property
    def record(self) -> np.dtype[Any]:
        """One object as a record, for files of records."""
        micro, coefficients = self.micro.shape[1:], self.coefficients.shape[1:]
        return np.dtype([("micro", "<f2", micro), ("coefficients", "<f4", coefficients)])

    def records(self) -> NDArray[Any]:
        """All objects as records."""
        values = np.empty(len(self), self.record)
        values["micro"], values["coefficients"] = self.micro, self.coefficients
        return values


class Reading(Protocol):
    """One way, opened. Way by way, `one` and `batch` may be missing (None)."""

    def one(self, position: int) -> Codes: ...
    def batch(self, positions: Sequence[int]) -> Codes: ...


class Ours:
    """fpipe's store. Writing also makes the channel statistics of every object's fused planes."""

    def __init__(self, root: str, data: Data) -> None:
        self._root, self._data = root, data

    def prepare(self) -> None:
        """Write base planes, which statistics of fused planes need."""
        import safetensors.numpy

        m, (_, _, _, k, _) = self._data.coefficients.shape[1], self._data.micro.shape
        base = np.random.default_rng(2).normal(size=(m, 3, F_MACRO, k, k)).astype(np.float32)
        folder, store = "shared/benchmark", Store(self._root)
        tensors = safetensors.numpy.save({"base_planes": base})
        store.create(f"{folder}/base_planes.safetensors", tensors)
        files = {"base_planes.safetensors": hashlib.sha256(tensors).hexdigest()}
        store.create(f"{folder}/shared.json", dump_document({"n_base": m, "files": files}, readable=True))

    def write(self) -> None:
        data, store = self._data, Store(self._root)
        n, _, f_mic, resolution, _ = data.micro.shape
        header = PlanHeader(n_objects=n, n_views=1, height=1, width=1, objects_per_views_shard=n)
        rows = [PlanRow(row, f"car-{row:06d}", "car", "benchmark", "", "") for row in range(n)]
        fit = FitHeader(
            name="main",
            shared_version="benchmark",
            fit_config_hash="benchmark",
            n_objects=n,
            f_mic=f_mic,
            resolution=resolution,
            n_base=data.coefficients.shape[1],
            objects_per_shard=data.objects_per_shard,
        )
        planes = PlanesStore.create_or_open(store, write_plan(store, header, rows), fit)
        for shard in range(planes.n_shards):
            with planes.builder(shard, f"attempt-{shard}") as builder:
                for row in planes.shard_rows(shard):
                    builder.add(row, ObjectFit(data.micro[row], data.coefficients[row], regime=2))
                builder.commit()
        publish_fit(store, "main")

    def open(self) -> None:
        self._dataset = open_planes(self._root)

    def one(self, position: int) -> Codes:
        entry = self._dataset[position]
        return entry.micro(np.float16), entry.coefficients()

    def micro(self, position: int) -> NDArray[Any]:
        return self._dataset[position].micro(np.float16)

    def batch(self, positions: Sequence[int]) -> Codes:
        batch = self._dataset[list(positions)]
        return batch.micro(np.float16), batch.coefficients()


class ZarrPython:
    """zarr-python alone: sharded micro planes and a chunk of coefficients per shard, as we store them."""

    def __init__(self, root: str, data: Data) -> None:
        self._root, self._data = root, data

    def _store(self) -> Any:
        from zarr.storage import FsspecStore, LocalStore

        if "://" not in self._root:
            return LocalStore(self._root)
        return FsspecStore.from_url(self._root, storage_options=S3_OPTIONS)

    def write(self) -> None:
        import zarr
        from zarr.codecs import BytesCodec, Crc32cCodec

        data, shard = self._data, self._data.objects_per_shard
        group = zarr.open_group(self._store(), mode="w")
        micro = group.create_array(
            "micro",
            shape=data.micro.shape,
            chunks=(1, *data.micro.shape[1:]),
            shards=(shard, *data.micro.shape[1:]),
            dtype=data.micro.dtype,
            compressors=[Crc32cCodec()],
            serializer=BytesCodec(endian="little"),
            filters=None,
        )
        shape = data.coefficients.shape
        coefficients = group.create_array(
            "coefficients",
            shape=shape,
            chunks=(shard, shape[1]),
            dtype=data.coefficients.dtype,
            compressors=[Crc32cCodec()],
            filters=None,
        )
        micro[:] = data.micro
        coefficients[:] = data.coefficients

    def open(self) -> None:
        import zarr

        group = zarr.open_group(self._store(), mode="r")
        self._micro, self._coefficients = group["micro"], group["coefficients"]

    def one(self, position: int) -> Codes:
        return self._micro[position], self._coefficients[position]

    def micro(self, position: int) -> NDArray[Any]:
        return self._micro[position]

    def batch(self, positions: Sequence[int]) -> Codes:
        where = consecutive(positions)
        if where is not None:
            return self._micro[where], self._coefficients[where]
        return self._micro.oindex[list(positions)], self._coefficients.oindex[list(positions)]


class TensorStore(ZarrPython):
    """tensorstore, on the same Zarr arrays as zarr-python."""

    def open(self) -> None:
        self._micro, self._coefficients = self._array("micro"), self._array("coefficients")

    def _array(self, name: str) -> Any:
        import os

        import tensorstore

        kvstore: dict[str, Any] = {"driver": "file", "path": f"{self._root}/{name}/"}
        context: dict[str, Any] = {}
        if "://" in self._root:
            bucket, _, path = self._root.partition("://")[2].partition("/")
            kvstore = {
                "driver": "s3",
                "bucket": bucket,
                "path": f"{path}/{name}/",
                "endpoint": os.environ["AWS_ENDPOINT_URL"],
                "aws_region": os.environ["AWS_DEFAULT_REGION"],
            }
            context = {"s3_request_concurrency": {"limit": CONNECTIONS}}
        spec = {"driver": "zarr3", "kvstore": kvstore, "context": context}
        return tensorstore.open(spec, read=True).result()

    def one(self, position: int) -> Codes:
        both = self._micro[position].read(), self._coefficients[position].read()
        return both[0].result(), both[1].result()

    def micro(self, position: int) -> NDArray[Any]:
        return self._micro[position].read().result()

    def batch(self, positions: Sequence[int]) -> Codes:
        where: Any = consecutive(positions) or list(positions)
        both = self._micro[where].read(), self._coefficients[where].read()
        return both[0].result(), both[1].result()


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
        return _of_record(np.load(io.BytesIO(data)))

    def load(self, path: str) -> Codes:
        return _of_record(np.load(path))


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
            return _of_record(self._records[position])
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


def file_system(root: str) -> Any:
    """Return s3fs with enough connections, or None for a local folder."""
    if "://" not in root:
        return None
    import s3fs

    return s3fs.S3FileSystem(**S3_OPTIONS)


def consecutive(positions: Sequence[int]) -> slice | None:
    """Return positions as a slice when they follow each other."""
    first, n = positions[0], len(positions)
    return slice(first, first + n) if list(positions) == list(range(first, first + n)) else None


def stacked(codes: Sequence[Codes]) -> Codes:
    """Return codes of several objects as one batch."""
    return np.stack([micro for micro, _ in codes]), np.stack([own for _, own in codes])


def stacked_records(found: list[bytes], record: np.dtype[Any], one: int | None = None) -> Codes:
    """Return records that were read as a batch, or one of them."""
    values = [np.frombuffer(data, record)[0] for data in found]
    return (
        stacked([(v["micro"], v["coefficients"]) for v in values]) if one is None else _of_record(values[0])
    )


def _of_record(value: Any) -> Codes:
    return np.array(value["micro"]), np.array(value["coefficients"])


WAYS: dict[str, type] = {
    "fpipe": Ours,
    "zarr-python": ZarrPython,
    "tensorstore": TensorStore,
    "npy per object": Npy,
    "safetensors per object": Safetensors,
    "webdataset tar": Tar,
    "ceiling": Ceiling,
}
