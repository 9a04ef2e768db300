"""Zarr arrays of codes: written and read with zarr-python, and read with tensorstore."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from tests.benchmarks.store_data import CONNECTIONS, S3_OPTIONS, Codes, Data


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


def consecutive(positions: Sequence[int]) -> slice | None:
    """Return positions as a slice when they follow each other."""
    first, n = positions[0], len(positions)
    return slice(first, first + n) if list(positions) == list(range(first, first + n)) else None
