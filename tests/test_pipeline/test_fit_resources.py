from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipeline.fit.resources import MEMORY_SHARE, MOST_ON_CPU, MOST_ON_GPU, FitResources, planned_batch
from pipeline.model.shared import SharedComponents
from pipeline.train.footprint import WorkerLoad, fit_footprint
from tests.test_pipeline.toy import toy_fit_settings, toy_settings, toy_trainer, trained_shared

MIB = 2**20


@pytest.fixture(scope="module")
def shared() -> SharedComponents:
    return trained_shared(toy_trainer())


def _planned(shared: SharedComponents, monkeypatch: pytest.MonkeyPatch, memory: int, device: str) -> int:
    monkeypatch.setattr(FitResources, "memory_bytes", lambda self: memory)
    settings = toy_fit_settings(latent_pixels=4096)
    return planned_batch(shared, settings, 200, FitResources(device=device))


def test_more_memory_has_room_for_more_objects(
    shared: SharedComponents, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = [_planned(shared, monkeypatch, mib * MIB, "cuda") for mib in (1, 1500, 2500, 10**6)]
    assert planned[0] == 1  # nothing less is possible
    assert planned[0] < planned[1] < planned[2] < planned[3] == MOST_ON_GPU
    assert _planned(shared, monkeypatch, 1500 * MIB, "cuda") == planned[1]


def test_what_is_planned_fits_and_one_object_more_would_not(
    shared: SharedComponents, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = 1500 * MIB
    n = _planned(shared, monkeypatch, memory, "cuda")
    assert 1 < n < MOST_ON_GPU
    sizes = replace(toy_settings(), geometry=shared.geometry)
    autoencoder, settings = copy.deepcopy(shared.autoencoder).to("meta"), toy_fit_settings(latent_pixels=4096)
    needed = [
        fit_footprint(settings, sizes, autoencoder, WorkerLoad(count, 200, shared.size_px)).total
        for count in (n, n + 2)
    ]
    # Planned from the cost of one and of two objects; steps of the footprint are not quite linear.
    assert needed[0] <= MEMORY_SHARE * memory * 1.02
    assert needed[1] > MEMORY_SHARE * memory


def test_a_cpu_takes_a_few_at_a_time(shared: SharedComponents, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _planned(shared, monkeypatch, 10**6 * MIB, "cpu") == MOST_ON_CPU


def test_a_tasks_share_of_the_memory_follows_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    whole = FitResources(threads=8).memory_bytes()
    assert FitResources(threads=2).memory_bytes() == whole // 4
    assert FitResources(threads=16).memory_bytes() == whole


def test_a_part_of_a_gpu_has_that_part_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(total_memory=80 * 2**30)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: card)
    assert [FitResources.of(1, gpus, "torch").memory_bytes() >> 30 for gpus in (0.25, 1.0, 2.0)] == [
        20,
        80,
        80,
    ]


def test_resources_are_those_of_the_configuration() -> None:
    assert FitResources.of(2.5, 0.0, "torch") == FitResources(2, "cpu", "torch")
    assert FitResources.of(0.5, 0.25, "auto") == FitResources(1, "cuda", "auto", 0.25)
