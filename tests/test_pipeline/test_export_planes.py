"""Exported planes: each format's own library reads what the store holds, and the card tells the truth."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.numpy
import yaml

import pipeline.export.formats
from pipeline.export.facts import PlanesExport
from pipeline.export.folder import ExportFolder
from pipeline.export.planes import PLANES_FORMATS, export_planes
from pipeline.export.selection import ExportResult, Selection
from storage.errors import EnvironmentProblem, StoreMismatchError, UsageError
from storage.journal import Journal, write_journal
from storage.plan import read_plan
from storage.planes import PlanesStore
from storage.reader import open_planes
from storage.records import ObjectFit
from storage.store import Store
from tests.test_pipeline.export_dataset import (
    F_MAC,
    F_MIC,
    FAILED,
    IDS,
    UNFITTED,
    VERSION,
    WITHOUT_BASE,
    K,
    M,
    fill,
    fit_header,
    make_dataset,
)
from tests.test_pipeline.silent import Silent


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_dataset(tmp_path / "cars")


def export(store: Store, out: Path, to: str = "npy", **options: Any) -> ExportResult:
    chosen = {name: options.pop(name) for name in ("objects", "classes", "limit") if name in options}
    fit, progress = options.pop("fit", None), options.pop("progress", Silent())
    return export_planes(store, out, PlanesExport(to, **options), progress, fit, Selection(**chosen))


def table(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((out / "objects.csv").read_text())))


def read_npy(out: Path, line: dict[str, str]) -> dict[str, np.ndarray]:
    first = line["file"].partition("/")[0]
    names = [path.name for path in out.iterdir() if path.name in ("planes", "micro", "coefficients")]
    found = {name: np.load(out / line["file"].replace(first, name, 1)) for name in names}
    return {name: v.reshape(3, -1, K, K) if v.ndim == 3 else v for name, v in found.items()}


def read_safetensors(out: Path, line: dict[str, str]) -> dict[str, np.ndarray]:
    with safetensors.safe_open(out / line["file"], "numpy") as file:
        assert file.metadata() == {"object_id": line["object_id"]}
    found = safetensors.numpy.load_file(out / line["file"])
    assert int(found.pop("class_id")) == int(line["class_id"])
    return found


def read_h5(out: Path, line: dict[str, str]) -> dict[str, np.ndarray]:
    assert int(Path(line["file"]).stem) == int(line["row"])
    with h5py.File(out / line["file"]) as file:
        assert int(file["class_id"][()]) == int(line["class_id"])
        assert file.attrs["object_id"] == line["object_id"]
        found = {name: file[name][()] for name in file if name != "class_id"}
    micro = "micro" if "coefficients" in found else "planes"
    return {micro if name == "triplane" else name: values for name, values in found.items()}


def read_webdataset(out: Path, line: dict[str, str]) -> dict[str, np.ndarray]:
    """Groups members as webdataset does: by what is before the first dot of the name."""
    groups: dict[str, dict[str, bytes]] = {}
    with tarfile.open(out / line["file"]) as tar:
        for member in tar:
            key, _, suffix = member.name.partition(".")
            content = tar.extractfile(member)
            assert content is not None
            groups.setdefault(key, {})[suffix] = content.read()
    [own] = [g for g in groups.values() if json.loads(g["json"])["object_id"] == line["object_id"]]
    about = json.loads(own.pop("json"))
    assert {name: str(value) for name, value in about.items()} == {name: line[name] for name in about}
    return {name.removesuffix(".npy"): np.load(io.BytesIO(data)) for name, data in own.items()}


READERS: dict[str, Callable[[Path, dict[str, str]], dict[str, np.ndarray]]] = {
    "npy": read_npy,
    "safetensors": read_safetensors,
    "h5": read_h5,
    "webdataset": read_webdataset,
}


def test_every_format_is_read_here() -> None:
    assert set(READERS) == set(PLANES_FORMATS)


@pytest.mark.parametrize("to", PLANES_FORMATS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_fused_planes_come_back(store: Store, tmp_path: Path, to: str, dtype: str) -> None:
    out, dataset = tmp_path / "out", open_planes(store.url)
    result = export(store, out, to, dtype=dtype)
    assert (result.written, result.skipped, result.exit_code) == (4, 0, 42)
    assert [line["object_id"] for line in table(out)] == list(dataset.ids)
    lower, upper = np.full(3 * (F_MIC + F_MAC), np.inf), np.full(3 * (F_MIC + F_MAC), -np.inf)
    for line in table(out):
        assert (
            dataset.classes[int(line["class_id"])] == line["class"] == dataset[line["object_id"]].class_name
        )
        found = READERS[to](out, line)
        assert set(found) == {"planes"}
        expected = dataset[line["object_id"]].planes().astype(dtype)
        assert found["planes"].dtype == expected.dtype
        np.testing.assert_array_equal(found["planes"], expected)
        channels = expected.reshape(-1, K * K)
        lower, upper = np.minimum(lower, channels.min(1)), np.maximum(upper, channels.max(1))
    np.testing.assert_array_equal(np.load(out / "stats/lower_bound.npy"), lower.astype(np.float32))
    np.testing.assert_array_equal(np.load(out / "stats/upper_bound.npy"), upper.astype(np.float32))
    assert not (out / ".partial").exists()


@pytest.mark.parametrize("to", PLANES_FORMATS)
def test_micro_planes_and_coefficients_fuse_to_the_same_planes(store: Store, tmp_path: Path, to: str) -> None:
    out, dataset = tmp_path / "out", open_planes(store.url)
    export(store, out, to, micro=True, dtype="float16")
    base = np.load(out / "base_planes.npy")
    for line in table(out):
        found, own = READERS[to](out, line), dataset[line["object_id"]]
        assert found["micro"].dtype == np.float16
        assert found["coefficients"].dtype == np.float32
        macro = np.tensordot(found["coefficients"], base, 1)
        np.testing.assert_array_equal(np.concatenate([found["micro"], macro], axis=1), own.planes())


@pytest.mark.parametrize("to", PLANES_FORMATS)
def test_codes_without_micro_planes_or_without_base_planes(tmp_path: Path, to: str) -> None:
    store = make_dataset(tmp_path / "root")
    plan, rng = read_plan(store), np.random.default_rng(0)
    for name, f_mic, n_base, version in (("ulw", 0, M, VERSION), ("own", F_MIC, 0, WITHOUT_BASE)):
        header = fit_header(name=name, f_mic=f_mic, n_base=n_base, shared_version=version)
        planes = PlanesStore.create_or_open(store, plan, header)
        builder = planes.builder(0, "a")
        for row in planes.shard_rows(0):
            micro = rng.normal(size=(3, f_mic, K, K)) if f_mic else None
            builder.add(row, ObjectFit(micro, rng.normal(size=n_base), 2))
        builder.commit()
    export(store, tmp_path / "ulw", to, fit="ulw", micro=True)
    [line, _] = table(tmp_path / "ulw")
    assert (line["psnr_db"], (tmp_path / "ulw" / "stats").exists()) == ("", False)
    assert "representations: coefficients, made" in (tmp_path / "ulw" / "README.md").read_text()
    coefficients = READERS[to](tmp_path / "ulw", line)["coefficients"]
    np.testing.assert_array_equal(coefficients, open_planes(store.url, "ulw")[0].coefficients())
    export(store, tmp_path / "own", to, fit="own")
    planes = READERS[to](tmp_path / "own", table(tmp_path / "own")[1])["planes"]
    np.testing.assert_array_equal(planes, open_planes(store.url, "own")[1].micro())
    for name in ("ulw", "own"):
        assert "Quality" not in (tmp_path / name / "README.md").read_text()


def test_the_readers_of_the_layouts_find_nothing_else(store: Store, tmp_path: Path) -> None:
    """Neural Field Diffusion lists every array below a folder; the h5 readers sort a split by int(stem)."""
    export(store, tmp_path / "npy")
    found = sorted((tmp_path / "npy" / "planes").rglob("*.npy"))
    assert [np.load(path).shape for path in found] == [(3 * (F_MIC + F_MAC), K, K)] * 4
    export(store, tmp_path / "h5", "h5")
    assert sorted(int(path.stem) for path in (tmp_path / "h5" / "train").iterdir()) == [0, 1, 2, 4]


def test_shards_hold_as_many_objects_as_fit(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.export.formats, "TAR_BYTES", 3 * 3 * (F_MIC + F_MAC) * K * K * 4)
    export(store, tmp_path / "out", "webdataset")
    files = [line["file"] for line in table(tmp_path / "out")]
    assert files == ["shard-000000.tar"] * 3 + ["shard-000001.tar"]
    for line in table(tmp_path / "out"):
        read_webdataset(tmp_path / "out", line)


@pytest.mark.parametrize(("to", "there"), [("npy", 2), ("safetensors", 2), ("h5", 2), ("webdataset", 2)])
def test_an_interrupted_export_goes_on(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, there: int
) -> None:
    """The third object is cut off in the middle of its file; the result is that of an export in one go."""
    monkeypatch.setattr(pipeline.export.formats, "TAR_BYTES", 2 * 3 * (F_MIC + F_MAC) * K * K * 4)
    out, whole, real = tmp_path / "out", tmp_path / "whole", ExportFolder.file
    export(store, whole, to)
    opened: list[str] = []

    def stops(folder: ExportFolder, name: str) -> Any:
        opened.append(name)
        if len(opened) == 1 + (2 if to == "webdataset" else 3):  # export.json is the first
            (folder.path / ".partial").mkdir(exist_ok=True)
            (folder.path / ".partial" / "killed").write_bytes(b"half")
            raise KeyboardInterrupt
        return real(folder, name)

    with monkeypatch.context() as patch:
        patch.setattr(ExportFolder, "file", stops)
        with pytest.raises(KeyboardInterrupt):
            export(store, out, to)
    assert not (out / "README.md").exists()
    kept = {
        path: path.stat().st_mtime_ns
        for path in out.rglob("*")
        if path.is_file() and ".partial" not in str(path)
    }
    os.utime(out / ".partial" / "killed", (0, 0))
    result = export(store, out, to)
    assert (result.written, result.skipped) == (4 - there, there)
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert content(out) == content(whole)
    again = export(store, out, to)
    assert (again.written, again.skipped, again.unavailable) == (0, 4, result.unavailable)
    assert content(out) == content(whole)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_other_exports_do_not_mix_in_one_folder(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(store, out)
    for options, differs in (
        ({"dtype": "float16"}, "dtype"),
        ({"micro": True}, "micro"),
        ({"limit": 1}, "set of objects"),
        ({"to": "safetensors"}, "format"),
    ):
        with pytest.raises(StoreMismatchError, match=f"another {differs}"):
            export(store, out, **options)
    with pytest.raises(StoreMismatchError, match="state of the fit"):
        replaced(store)
        export(store, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("")
    with pytest.raises(UsageError, match="not empty"):
        export(store, tmp_path / "mine")


def replaced(store: Store) -> None:
    """Leaves what a round of replacements leaves: the journal's next generation."""
    write_journal(store, PlanesStore.open(store).spec.group, Journal(generation=1), None)


def test_a_growing_fit_needs_a_new_folder(tmp_path: Path) -> None:
    store = make_dataset(tmp_path / "root")
    planes = PlanesStore.create_or_open(store, read_plan(store), fit_header(name="growing"))
    fill(planes, range(1))
    result = export(store, tmp_path / "out", fit="growing")
    assert result.unavailable == dict.fromkeys(IDS[2:], "not fitted yet")
    fill(planes, range(1, 3))
    with pytest.raises(StoreMismatchError, match="set of objects"):
        export(store, tmp_path / "out", fit="growing")


def test_failed_objects_are_listed_and_in_no_file(store: Store, tmp_path: Path) -> None:
    progress = Silent()
    result = export(store, tmp_path / "out", progress=progress)
    assert set(result.unavailable) == {IDS[FAILED], IDS[UNFITTED]}
    assert any(IDS[FAILED] in line for line in progress.said)
    assert progress.done == 4
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| car-3 | no faces \\| &lt;b&gt;none&lt;/b&gt; |" in card
    lines = list(csv.reader((tmp_path / "out" / "not_exported.csv").read_text().splitlines()))
    assert lines == [["object_id", "reason"], *([IDS[row], "no faces | <b>none</b>"] for row in (3, 5))]
    assert not [*(tmp_path / "out").rglob("car-3*")]
    with pytest.raises(UsageError, match="none of the 1 chosen"):
        export(store, tmp_path / "none", objects=[IDS[FAILED]])


def test_a_selection(store: Store, tmp_path: Path) -> None:
    result = export(store, tmp_path / "out", classes=["sofa"], limit=2)
    assert (result.exit_code, [line["object_id"] for line in table(tmp_path / "out")]) == (
        0,
        [IDS[0], IDS[2]],
    )
    assert {line["class_id"] for line in table(tmp_path / "out")} == {"1"}  # not renumbered


def test_the_card_has_what_the_hub_reads(store: Store, tmp_path: Path) -> None:
    export(store, tmp_path / "out", license="cc-by-4.0", title="Cars: a set")
    text = (tmp_path / "out" / "README.md").read_text()
    _, header, body = text.split("---\n", 2)
    values = yaml.safe_load(header)
    assert (values["license"], values["pretty_name"]) == ("cc-by-4.0", "Cars: a set")
    assert values["size_categories"] == ["n<1K"]
    [config] = values["configs"]
    [files] = config["data_files"]
    assert (tmp_path / "out" / files["path"]).is_file()
    # PSNR is 20 dB + row: rows 0, 1, 2 and 4 have 21.75 in the mean, 21.5 in the median, and 0.9 of SSIM.
    assert "21.75 dB in the mean, 21.50 dB in the median" in body
    assert "SSIM 0.900" in body
    assert "| `planes` | [15, 4, 4] | plane × channel, row, column | float32 |" in body
    assert "| sofa | 1 | 3 |" in body
    assert "| car | 0 | 1 |" in body
    assert f"| shared_version | `{VERSION}` |" in body
    assert "ShapeNet's terms" in body
    assert "No licence" not in body
    assert "secret" not in text
    assert "secret" not in (tmp_path / "out" / "croissant.json").read_text()
    size = sum(path.stat().st_size for path in (tmp_path / "out" / "planes").rglob("*.npy"))
    assert f"{size:,} bytes" in body


def test_the_card_loads_in_the_hubs_own_library(store: Store, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    export(store, tmp_path / "out", "webdataset")
    card = hub.DatasetCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "other"
    assert card.data.configs[0]["data_files"][0]["path"] == "shard-*.tar"
    assert "No licence was chosen" in card.text


@pytest.mark.parametrize(("to", "micro"), [(to, micro) for to in PLANES_FORMATS for micro in (False, True)])
def test_croissant_has_what_the_specification_requires(
    store: Store, tmp_path: Path, to: str, micro: bool
) -> None:
    out = tmp_path / "out"
    export(store, out, to, micro=micro, url="https://example.org/cars", creator="A lab")
    found = json.loads((out / "croissant.json").read_text())
    required = {"@context", "@type", "conformsTo", "description", "license", "name", "url", "creator"}
    assert required | {"datePublished", "distribution", "recordSet"} <= found.keys()
    assert (found["@type"], found["conformsTo"]) == ("sc:Dataset", "http://mlcommons.org/croissant/1.0")
    objects = [entry for entry in found["distribution"] if entry["@type"] == "cr:FileObject"]
    sets = [entry for entry in found["distribution"] if entry["@type"] == "cr:FileSet"]
    for entry in objects:
        data = (out / entry["contentUrl"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert entry["contentSize"] == f"{len(data)} B"
    assert {path for entry in sets for path in out.glob(entry["includes"])} >= {
        out / line["file"] for line in table(out)
    }
    ids = {entry["@id"] for entry in found["distribution"]} | {
        field["@id"] for records in found["recordSet"] for field in records["field"]
    }
    [records] = [entry for entry in found["recordSet"] if entry["@id"] == "objects"]
    columns = [field["source"]["extract"]["column"] for field in records["field"]]
    assert columns == list(table(out)[0])
    assert {field["source"]["fileObject"]["@id"] for field in records["field"]} <= ids
    assert {f["references"]["field"]["@id"] for f in records["field"] if "references" in f} <= ids
    assert records["key"]["@id"] in ids


def test_who_and_where_are_left_out_of_croissant_rather_than_invented(store: Store, tmp_path: Path) -> None:
    export(store, tmp_path / "out")
    assert not {"url", "creator"} & json.loads((tmp_path / "out" / "croissant.json").read_text()).keys()


def test_a_card_is_kept_until_it_is_deleted(store: Store, tmp_path: Path) -> None:
    out, progress = tmp_path / "out", Silent()
    export(store, out)
    (out / "README.md").write_text("my own words")
    export(store, out, license="mit", progress=progress)
    assert (out / "README.md").read_text() == "my own words"
    assert any("README.md is there" in line for line in progress.said)
    (out / "README.md").unlink()
    export(store, out, license="mit")
    assert "license: mit" in (out / "README.md").read_text()


def test_planes_beyond_the_type_name_the_object(tmp_path: Path) -> None:
    store = make_dataset(tmp_path / "root", base_scale=1e5)
    with pytest.raises(UsageError, match=r"sofa-0: planes reach .* beyond float16"):
        export(store, tmp_path / "out", dtype="float16")
    assert export(store, tmp_path / "other").written == 4


def test_bad_options(store: Store, tmp_path: Path) -> None:
    for options, message in (
        ({"to": "obj"}, "no format 'obj'"),
        ({"dtype": "int8"}, "float32 or float16"),
        ({"license": "CC BY 4.0"}, "cc-by-4.0"),
        ({"fit": "nobody"}, "no fit 'nobody'"),
        ({"classes": ["boat"]}, "car, sofa"),
    ):
        with pytest.raises(UsageError, match=message):
            export(store, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("to", "library", "extra"), [("h5", "h5py", "render"), ("safetensors", "safetensors", "train")]
)
def test_a_missing_library_names_its_extra(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, library: str, extra: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EnvironmentProblem, match=rf"{library} is not installed.*\[{extra}\]"):
        export(store, tmp_path / "out", to)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_ends_with_one_line_and_no_half_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentProblem, match=r"export\.json: No space left on device"):
        export(store, tmp_path / "out")
    assert not [*(tmp_path / "out").iterdir()] or [*(tmp_path / "out").iterdir()] == [
        tmp_path / "out/.partial"
    ]
