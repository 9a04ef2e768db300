from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.model.planes import fuse
from pipeline.model.shared import RegimeOneCodes, SharedComponents, load_regime_one, load_shared
from pipeline.train.joint import JointTrainer
from storage.errors import IntegrityError, UsageError
from storage.layout import shared_key
from storage.shared import read_base_planes, read_shared_meta
from storage.store import Store
from tests.test_pipeline.toy import toy_object, toy_trainer, trained_shared


@pytest.fixture(scope="module")
def trainer() -> JointTrainer:
    trainer = toy_trainer()
    trained_shared(trainer)
    return trainer


@pytest.fixture(scope="module")
def shared(trainer: JointTrainer) -> SharedComponents:
    return trainer.shared_components().freeze()


def test_what_is_loaded_renders_the_same_bits(
    trainer: JointTrainer, shared: SharedComponents, tmp_path: Path
) -> None:
    store, codes = Store(tmp_path), trainer.codes()
    version = shared.save(store, codes)
    loaded = load_shared(store, version)
    toy = toy_object(0)
    assert codes.micro is not None
    code = (torch.from_numpy(codes.micro[0]), torch.from_numpy(codes.coefficients[0]))
    cameras, matrices = torch.from_numpy(toy.cam2world), torch.from_numpy(toy.intrinsics)
    before, after = (part.render_rgb(*code, cameras, matrices) for part in (shared, loaded))
    assert torch.equal(before, after)
    rgb = torch.rand(2, 3, 32, 32)
    assert torch.equal(shared.reconstruct(rgb), loaded.reconstruct(rgb))
    assert loaded.geometry == shared.geometry
    again = load_regime_one(store, version)
    assert again.ids == codes.ids
    np.testing.assert_array_equal(again.micro, codes.micro)


def test_the_version_is_the_content(trainer: JointTrainer, shared: SharedComponents, tmp_path: Path) -> None:
    codes = trainer.codes()
    versions = {shared.save(Store(tmp_path / name), codes, {"seconds": name}) for name in ("a", "b")}
    assert len(versions) == 1  # times and the like do not count
    changed = RegimeOneCodes(codes.ids, codes.micro, codes.coefficients + 1e-6)
    assert shared.save(Store(tmp_path / "a"), changed) not in versions
    assert shared.save(Store(tmp_path / "a"), codes) in versions  # saved again: nothing to do


def test_the_reader_without_torch_agrees(
    trainer: JointTrainer, shared: SharedComponents, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    version = shared.save(store, trainer.codes())
    np.testing.assert_array_equal(read_base_planes(store, version), shared.base_planes.numpy())
    meta = read_shared_meta(store, version)
    assert (meta["plane_resolution"], meta["f_mic"], meta["f_mac"], meta["n_base"]) == (16, 4, 4, 2)
    assert (meta["box_half"], meta["axes"], meta["latent_shape"]) == (0.55, "xyz", [4, 8, 8])


def test_a_damaged_file_is_named(trainer: JointTrainer, shared: SharedComponents, tmp_path: Path) -> None:
    store = Store(tmp_path)
    version = shared.save(store, trainer.codes())
    key = shared_key(version, "renderer.safetensors")
    data = bytearray(store.read(key))
    data[-1] ^= 1
    store.replace(key, bytes(data))
    with pytest.raises(IntegrityError, match=r"renderer\.safetensors"):
        load_shared(store, version)


def test_a_version_without_its_last_file_does_not_exist(
    trainer: JointTrainer, shared: SharedComponents, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    version = shared.save(store, trainer.codes())
    assert json.loads(store.read(shared_key(version, "shared.json")))["shared_version"] == version
    (tmp_path / shared_key(version, "shared.json")).unlink()
    with pytest.raises(UsageError, match="train-shared"):
        load_shared(store, version)


def test_codes_of_ranks_are_merged_by_id() -> None:
    def codes(*ids: str) -> RegimeOneCodes:
        values = np.array([[float(name[-1])] for name in ids], np.float32)
        return RegimeOneCodes(ids, values[:, :, None, None, None], values)

    merged = RegimeOneCodes.merge([codes("car-2", "car-0"), codes("car-1")])
    assert merged.ids == ("car-0", "car-1", "car-2")
    assert merged.coefficients[:, 0].tolist() == [0, 1, 2]
    found = merged.of("car-1")
    assert found is not None
    assert found[1].tolist() == [1.0]
    assert merged.of("car-9") is None


def test_a_code_renders_what_its_fused_planes_hold(shared: SharedComponents) -> None:
    planes = fuse(None, torch.ones(1, 2), shared.base_planes)
    torch.testing.assert_close(planes[0], shared.base_planes.sum(0))
