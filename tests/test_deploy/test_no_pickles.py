"""Nothing that lies in a store can make its reader run code or write where it wants."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.evaluate import evaluate_dataset
from pipeline.frozen.job import BlockResult
from pipeline.model.shared import load_shared
from pipeline.status import dataset_status
from pipeline.train.checkpoints import Checkpoints
from storage.documents import SCHEMA_VERSION, dump_document
from storage.errors import FpipeError, IntegrityError
from storage.plan import read_plan
from storage.reader import open_planes
from storage.store import Store
from storage.views import ViewsStore

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path
    for name in ("cli", "pipeline", "render_jobs", "storage", "deploy")
    for path in (ROOT / name).rglob("*.py")
]
UNPICKLERS = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
}
ASKED_FOR = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}
FORBIDDEN = {
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "pd.read_pickle",
    "torch.jit.load",
    "eval",
    "exec",
}


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, fuse: Path) -> None:
        self.fuse = fuse

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return _explode, (str(self.fuse),)


def _explode(fuse: str) -> object:
    Path(fuse).touch()
    return {}


def findings(tree: ast.AST) -> list[str]:
    """The calls and imports of a module that may unpickle or run data."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [name.name for name in node.names]
            )
            found += [f"line {node.lineno}: imports {n}" for n in names if n.split(".")[0] in UNPICKLERS]
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
            if name in FORBIDDEN:
                found.append(f"line {node.lineno}: {name}")
            if name in ASKED_FOR and given.get(ASKED_FOR[name][0]) is not ASKED_FOR[name][1]:
                found.append(f"line {node.lineno}: {name} without {ASKED_FOR[name][0]}={ASKED_FOR[name][1]}")
    return found


def test_no_module_unpickles_files() -> None:
    assert len(SOURCES) > 200
    found = {str(path): lines for path in SOURCES if (lines := findings(ast.parse(path.read_text())))}
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "yaml.load(f)",
        "eval(text)",
    ],
)
def test_the_look_at_the_modules_finds(line: str) -> None:
    assert findings(ast.parse(line))


def readers(root: Path, version: str) -> dict[str, Callable[[], object]]:
    """Everything that reads a dataset."""

    def planes() -> None:
        opened = open_planes(root)
        for object_id in opened.ids:
            opened[object_id].planes()

    def views() -> None:
        store = ViewsStore.open(Store(root))
        for row in range(read_plan(Store(root)).header.n_objects):
            store.read(row)

    return {
        "planes": planes,
        "views": views,
        "shared": lambda: load_shared(Store(root), version),
        "status": lambda: dataset_status(Store(root)),
        "evaluate": lambda: evaluate_dataset(str(root), None, recompute=False),
    }


def test_every_file_of_a_dataset_replaced_by_a_pickle(tiny_dataset: Path, tmp_path: Path) -> None:
    """Kind by kind, so that every reader comes as far as it can; the plan last."""
    version = next((tiny_dataset / "shared").iterdir()).name
    fuse = tmp_path / "exploded"
    bomb = pickle.dumps(Bomb(fuse))
    for place in ("shared", "fits", "views.zarr", "runs", "plan"):
        root = tmp_path / place.replace("/", "-")
        shutil.copytree(tiny_dataset, root)
        files = [path for path in (root / place).rglob("*") if path.is_file()]
        assert files
        for path in files:
            path.write_bytes(bomb)
        failed = 0
        for read in readers(root, version).values():
            try:
                read()
            except (FpipeError, ValueError, KeyError, OSError):
                failed += 1
        assert failed or place == "runs", place
        assert not fuse.exists(), place
        shutil.rmtree(root)
    assert pickle.loads(bomb) == {}
    assert fuse.exists(), "the bomb would have been noticed"


def test_a_checkpoint_that_is_a_pickle_with_the_right_hash(tmp_path: Path) -> None:
    fuse = tmp_path / "exploded"
    store = Store(tmp_path / "data")
    checkpoints = Checkpoints(store, "training", rank=0)
    checkpoints.save(3, {"a": torch.zeros(2)})
    buffer = io.BytesIO()
    torch.save({"step": 3, "state": Bomb(fuse)}, buffer)
    name = next(name for name in store.list("training") if name.endswith(".pt")).removesuffix(".pt")
    record = json.loads(store.read(f"training/{name}.json"))
    record |= {"bytes": len(buffer.getvalue()), "sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}
    store.replace(f"training/{name}.pt", buffer.getvalue())
    store.replace(f"training/{name}.json", json.dumps(record).encode())
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        checkpoints.load(3)
    assert not fuse.exists()


def test_a_block_of_a_comparison_that_holds_an_object_array(tmp_path: Path) -> None:
    fuse = tmp_path / "exploded"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("rows.npy", "w") as file:
        np.lib.format.write_array(file, np.array([Bomb(fuse)], dtype=object), allow_pickle=True)
    store = Store(tmp_path / "data")
    store.replace("block.npz", buffer.getvalue())
    with pytest.raises(ValueError, match="allow_pickle"):
        BlockResult.load(store, "block.npz")
    assert not fuse.exists()


@pytest.mark.parametrize("name", ["vae/../../../escaped", "vae//tmp/fpipe-test-escaped", "vae/.."])
def test_a_record_of_components_that_leads_out_of_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The record has a right checksum, and a file with the right hash is there: whoever made it knew both."""
    store = Store(f"memory://{tmp_path.name}")  # a server takes any key
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a/b"))
    meta = {
        "schema_version": SCHEMA_VERSION,
        "shared_version": "v",
        "files": {name: hashlib.sha256(b"x").hexdigest()},
    }
    store.replace("shared/v/shared.json", dump_document(meta))
    monkeypatch.setattr(Store, "read", reader_of_any_key(Store.read))
    with pytest.raises(IntegrityError, match="is no file of an autoencoder"):
        load_shared(store, "v")
    assert [path.name for path in tmp_path.rglob("*escaped*")] == []
    assert not Path("/tmp/fpipe-test-escaped").exists()


def reader_of_any_key(read: Callable[[Store, str], bytes]) -> Callable[[Store, str], bytes]:
    return lambda store, key: read(store, key) if key.endswith("shared.json") else b"x"
