"""Flip single bytes of a dataset's files, and look whether `verify` finds and names each of them.

The positions are spread evenly over the kinds of files (a shard of views, a marker, the zarr.json of one
array). Half of them are in the first and last 64 bytes of a file: formats keep there what readers see first.

    python -m tests.byte_flips ROOT --positions 600     # on a copy; the dataset itself is only read
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storage.store import Store
from storage.verify import verify

NOT_COVERED = ("runs/", "reports/", "quarantine/")
EDGE_BYTES = 64


@dataclass(frozen=True)
class Flip:
    """One byte to change: the file, where, and which bits."""

    name: str
    position: int
    mask: int


def kind_of(name: str) -> str:
    """Name of a file without what numbers it: shards, hashes, versions."""
    return re.sub(r"[0-9a-f]{16,}|\d+", "#", name)


def covered_files(root: Path) -> list[str]:
    """All files of a dataset that `verify` answers for."""
    names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    return sorted(name for name in names if not name.startswith(NOT_COVERED))


def choose_flips(root: Path, n_positions: int, seed: int = 0) -> list[Flip]:
    """Draw positions, the kinds of files in turn; a mask flips one bit or, every second time, any of them."""
    rng = np.random.default_rng(seed)
    kinds = defaultdict(list)
    for name in covered_files(root):
        kinds[kind_of(name)].append(name)
    flips = []
    for number in range(n_positions):
        names = kinds[sorted(kinds)[number % len(kinds)]]
        name = names[int(rng.integers(len(names)))]
        size = (root / name).stat().st_size
        position = int(rng.integers(size))
        if rng.random() < 0.5:
            position = int(rng.integers(min(size, EDGE_BYTES)))
            position = position if rng.random() < 0.5 else size - 1 - position
        mask = int(rng.integers(1, 256)) if rng.random() < 0.5 else 1 << int(rng.integers(8))
        flips.append(Flip(name, position, mask))
    return flips


def is_found(root: Path, flip: Flip) -> bool:
    """Change one byte, say whether `verify` names the file, and change it back."""
    path = root / flip.name
    sound = path.read_bytes()
    damaged = bytearray(sound)
    damaged[flip.position] ^= flip.mask
    path.write_bytes(damaged)
    try:
        return flip.name in {problem.key for problem in verify(Store(root), full=True)}
    finally:
        path.write_bytes(sound)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--positions", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fpipe-flips-") as folder:
        root = Path(folder) / "dataset"
        shutil.copytree(options.root, root)
        if problems := verify(Store(root), full=True):
            parser.error(f"{options.root} is damaged already: {problems[0]}")
        began = time.monotonic()
        flips = choose_flips(root, options.positions, options.seed)
        missed = [flip for flip in flips if not is_found(root, flip)]
    result = {
        "positions": len(flips),
        "found": len(flips) - len(missed),
        "kinds": dict(sorted(Counter(kind_of(flip.name) for flip in flips).items())),
        "missed": [vars(flip) for flip in missed],
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(result))  # noqa: T201 the result of a script
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
