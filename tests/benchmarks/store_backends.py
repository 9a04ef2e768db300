"""Ways to store the codes of many objects, with one interface: ours, and what people use instead.

An object is its micro planes and its coefficients, as they are fitted. Every way writes the same arrays, and
every read returns arrays of its own, in the stored types, the micro planes [.., 3, F, K, K] in float16.
Ways that can read several objects at once in their own way do so; a plain file per object is read with the
concurrent `cat` of fsspec on S3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.documents import dump_document
from storage.plan import PlanHeader, write_plan
from storage.planes import FitHeader, PlanesStore, publish_fit
from storage.reader import open_planes
from storage.records import ObjectFit, PlanRow
from storage.store import Store
from tests.benchmarks.store_data import Codes, Data
from tests.benchmarks.store_files import Ceiling, Npy, Safetensors, Tar
from tests.benchmarks.store_zarr import TensorStore, ZarrPython

F_MACRO = 5  # channels of base planes; only writing our statistics needs them


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


WAYS: dict[str, type] = {
    "fpipe": Ours,
    "zarr-python": ZarrPython,
    "tensorstore": TensorStore,
    "npy per object": Npy,
    "safetensors per object": Safetensors,
    "webdataset tar": Tar,
    "ceiling": Ceiling,
}
