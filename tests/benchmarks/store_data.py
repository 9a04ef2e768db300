"""The codes that the store's benchmark stores, and what its ways to store them share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from storage.plan import choose_objects_per_shard

Codes = tuple[NDArray[Any], NDArray[Any]]  # micro planes, coefficients
CONNECTIONS = 64
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


def file_system(root: str) -> Any:
    """Return s3fs with enough connections, or None for a local folder."""
    if "://" not in root:
        return None
    import s3fs

    return s3fs.S3FileSystem(**S3_OPTIONS)


def stacked(codes: Sequence[Codes]) -> Codes:
    """Return codes of several objects as one batch."""
    return np.stack([micro for micro, _ in codes]), np.stack([own for _, own in codes])


def of_record(value: Any) -> Codes:
    return np.array(value["micro"]), np.array(value["coefficients"])
