"""Datasets for PyTorch behind real data loaders: S3 and disk, worker processes of every kind."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.epoch_order import EpochSampler
from storage.errors import StaleSnapshotError, UsageError
from storage.planes import PlanesStore, publish_fit
from storage.reader import PlanesDataset, open_planes
from storage.records import Failure, ObjectFit
from storage.statistics import NORMALIZATIONS
from storage.store import Store
from tests.chaos.faults import Faults
from tests.chaos.running import CREDENTIALS, running_proxy, running_server

from .builders import F_MAC, F_MIC, K, M, fit_header, make_plan, object_fit, write_shared
from .test_replacement import mend_in_a_round

torch = pytest.importorskip("torch")
pytest.importorskip("moto.server")

from torch.utils.data import DataLoader  # noqa: E402

from storage.torch_data import Fuse, PlanesMapDataset, PlanesStream, fuse  # noqa: E402

N, PER_SHARD, BATCH, WORKERS = 45, 6, 4, 2
FAILED, ABSENT = (3, 20, 21), (12, 13, 14, 15, 16, 17)  # all of shard 2 is absent
ROWS = sorted(set(range(N)) - {*FAILED, *ABSENT})

pytestmark = pytest.mark.timeout(180)  # a loader that hangs is a failure


def many_objects(url: str) -> str:
    store = Store(url)
    planes = PlanesStore.create_or_open(
        store, make_plan(store, n_objects=N), fit_header(n_objects=N, objects_per_shard=PER_SHARD)
    )
    write_shared(store)
    for shard in range(planes.n_shards):
        builder = planes.builder(shard, f"m{shard}")
        for row in planes.shard_rows(shard):
            if row in FAILED:
                builder.fail(row, Failure("no_views", "not rendered"))
            elif row in ABSENT:
                builder.leave_absent(row)
            else:
                builder.add(row, object_fit(row))
        builder.commit()
    publish_fit(store, "main")
    return url


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with running_server([sys.executable, "-m", "tests.chaos.server"]) as url:
        yield url


@pytest.fixture(scope="module")
def s3(server: str) -> Iterator[Callable[[str], None]]:
    """Point this process, and those that it starts, at the server; returns what points it elsewhere."""
    import s3fs

    with pytest.MonkeyPatch.context() as patch:

        def use(endpoint: str) -> None:
            for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": endpoint}.items():
                patch.setenv(name, value)
            s3fs.S3FileSystem.clear_instance_cache()

        use(server)
        yield use
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def remote(s3: Callable[[str], None]) -> str:
    import s3fs

    s3fs.S3FileSystem(skip_instance_cache=True).mkdir("many")
    return many_objects("s3://many/root")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> str:
    return many_objects(str(tmp_path_factory.mktemp("many")))


def rows_of(batches: Any) -> list[list[int]]:
    return [batch["row"].tolist() for batch in batches]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def assert_content(batch: dict[str, Any]) -> None:
    assert batch["micro"].dtype == torch.float16 and batch["micro"].shape[1:] == (3, F_MIC, K, K)
    for number, row in enumerate(batch["row"].tolist()):
        truth = object_fit(row)
        assert np.array_equal(batch["micro"][number].numpy(), truth.micro)
        assert np.array_equal(batch["coefficients"][number].numpy(), truth.coefficients)
        assert batch["id"][number] == f"{('sofa', 'car')[row % 2]}-{row:05d}"
        assert batch["class_index"][number] == (row % 2 == 0)


def open_remote(url: str) -> PlanesDataset:
    """Say where the server is: a fork server has the environment of the test that started it."""
    return open_planes(url, key="test", secret="test", endpoint_url=os.environ["AWS_ENDPOINT_URL"])


def loader_of(data: Any, how: str, **more: Any) -> Any:
    context = multiprocessing.get_context(how)
    if how == "forkserver":
        context.set_forkserver_preload(["storage.torch_data"])  # torch once and not in every worker
    return DataLoader(data, batch_size=BATCH, num_workers=WORKERS, multiprocessing_context=context, **more)


@pytest.mark.parametrize("how", ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_stream_over_s3_for_two_epochs_interrupted_and_resumed(remote: str, how: str) -> None:
    dataset = open_remote(remote)
    assert dataset[0].row == 0, "connections are open before workers are started"
    stream = PlanesStream(dataset, seed=5, buffer=8)
    loader = loader_of(stream, how, persistent_workers=True)
    epochs = []
    for epoch in range(2):
        stream.set_epoch(epoch)
        batches = list(loader)
        for batch in batches:
            assert_content(batch)
        epochs.append(rows_of(batches))
        assert sorted(flat(epochs[-1])) == ROWS, "every object once"
        assert len(batches) == stream.n_batches(BATCH, WORKERS)
    assert epochs[0] != epochs[1]
    del loader

    state = json.loads(json.dumps(stream.state_after(5, BATCH, WORKERS)))
    again = PlanesStream(open_remote(remote), seed=5, buffer=8)
    again.load_state_dict(state)
    again.set_epoch(1)
    assert rows_of(loader_of(again, how)) == epochs[1][5:], "goes on as if nothing had happened"


@pytest.mark.parametrize("how", ["fork", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_map_style_over_s3_for_two_epochs_interrupted_and_resumed(remote: str, how: str) -> None:
    dataset = open_remote(remote)
    assert dataset[0].row == 0
    data = PlanesMapDataset(dataset)
    sampler = EpochSampler(len(data), seed=5)
    loader = loader_of(data, how, sampler=sampler, persistent_workers=True)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        batches = list(loader)
        for batch in batches:
            assert_content(batch)
        epochs.append(rows_of(batches))
        assert sorted(flat(epochs[-1])) == ROWS and len(batches) == len(loader)
    assert epochs[0] != epochs[1]
    sampler.load_state_dict(json.loads(json.dumps(sampler.state_after(3, BATCH))))
    assert rows_of(loader) == epochs[1][3:]


def test_two_ranks_share_an_epoch_over_a_faulty_network(remote: str, server: str, s3: Any) -> None:
    """Errors, refusals, resets and truncated bodies: slower, but every object once."""
    faults = Faults(
        seed=7, rates={"error_500": 0.05, "slow_down": 0.05, "reset_after": 0.03, "truncate": 0.03}
    )
    with running_proxy(server, faults) as proxy:
        s3(proxy.url)
        found, sizes = [], []
        for rank in range(2):
            stream = PlanesStream(open_remote(remote), seed=2, rank=rank, world_size=2, buffer=8)
            batches = list(loader_of(stream, "fork"))
            for batch in batches:
                assert_content(batch)
            found += flat(rows_of(batches))
            sizes.append(len(found))
        counts = proxy.counts()
        s3(server)
    assert sorted(found) == ROWS and sizes == [18, 36]
    assert sum(counts.get(kind, 0) for kind in faults.rates) > 0


def test_abandoned_loaders_do_not_hang(local: str) -> None:
    stream = PlanesStream(open_planes(local), buffer=8)
    for _ in range(2):
        iterator = iter(loader_of(stream, "fork"))
        next(iterator)
        del iterator
    own = iter(stream)
    next(own)
    own.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [0, 1])
def test_resuming_with_another_number_of_workers_loses_nothing(local: str, workers: int) -> None:
    stream = PlanesStream(open_planes(local), seed=1, buffer=8)
    loader = loader_of(stream, "fork")
    seen = flat(rows_of(batch for batch, _ in zip(loader, range(3), strict=False)))
    other = PlanesStream(open_planes(local), seed=1, buffer=8)
    other.load_state_dict(stream.state_after(3, BATCH, WORKERS))
    seen += flat(rows_of(DataLoader(other, batch_size=BATCH, num_workers=workers)))
    assert sorted(seen) == ROWS


def test_state_within_one_process(local: str) -> None:
    stream = PlanesStream(open_planes(local), seed=1, buffer=8)
    with pytest.raises(UsageError, match="state_after"):
        stream.state_dict()
    stream.set_epoch(4)
    whole = [sample["row"] for sample in stream]
    iterator = iter(stream)
    assert [next(iterator)["row"] for _ in range(9)] == whole[:9]
    state = stream.state_dict()
    assert state == stream.state_after(9, 1, 0)
    other = PlanesStream(open_planes(local), seed=1, buffer=8)
    other.load_state_dict(state)
    assert [sample["row"] for sample in other] == whole[9:]
    assert [sample["row"] for sample in other] == whole, "the same epoch again, unless set_epoch says so"


def test_the_state_of_a_finished_epoch_is_followed_by_the_next(local: str) -> None:
    stream = PlanesStream(open_planes(local), buffer=8)
    state = stream.state_after(stream.n_batches(BATCH, WORKERS), BATCH, WORKERS)
    other = PlanesStream(open_planes(local), buffer=8)
    other.load_state_dict(state)
    epochs = []
    for epoch in range(2):  # the loop of a training: the finished epoch has nothing left
        other.set_epoch(epoch)
        epochs.append(flat(rows_of(loader_of(other, "fork"))))
    assert epochs[0] == [] and sorted(epochs[1]) == ROWS


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_stateful_loader_resumes_through_its_workers(local: str) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    for workers in (0, 2):
        stream = PlanesStream(open_planes(local), seed=1, buffer=8)
        stream.set_epoch(3)
        loader = stateful.StatefulDataLoader(stream, batch_size=BATCH, num_workers=workers)
        iterator = iter(loader)
        seen = rows_of(next(iterator) for _ in range(4))
        state = pickle.loads(pickle.dumps(loader.state_dict()))
        rest = rows_of(iterator)
        assert sorted(flat(seen + rest)) == ROWS
        ended = loader.state_dict()
        for loaded, epoch, expected in ((state, 3, sorted(flat(rest))), (ended, 4, ROWS)):
            other = PlanesStream(open_planes(local), seed=1, buffer=8)
            again = stateful.StatefulDataLoader(other, batch_size=BATCH, num_workers=workers)
            again.load_state_dict(loaded)
            other.set_epoch(epoch)
            assert sorted(flat(rows_of(again))) == expected, (workers, epoch)


def test_planes_from_workers_and_fused_on_the_device_are_those_of_the_reader(local: str) -> None:
    dataset = open_planes(local)
    truth = {sample.row: sample for sample in dataset}
    for how in (None, *NORMALIZATIONS):
        planes = {s["row"]: s["planes"] for s in PlanesStream(dataset, "planes", how, shuffle=False)}
        assert list(planes) == ROWS
        batch = next(iter(DataLoader(PlanesMapDataset(dataset), batch_size=8)))
        module = Fuse(dataset, how)
        fused = module(batch["micro"], batch["coefficients"])
        assert fused.shape == (8, 3, F_MIC + F_MAC, K, K) and fused.dtype == torch.float32
        for number, row in enumerate(batch["row"].tolist()):
            expected = truth[row].planes(normalize=how)
            np.testing.assert_allclose(planes[row].numpy(), expected, atol=1e-6)
            np.testing.assert_allclose(fused[number].numpy(), expected, rtol=1e-4, atol=2e-6)
        back = module.denormalize(fused)
        np.testing.assert_allclose(back.numpy(), dataset[:8].planes(), rtol=1e-4, atol=1e-5)
    half = Fuse(dataset, "minmax", torch.bfloat16)(batch["micro"], batch["coefficients"])
    assert half.dtype == torch.bfloat16 and half.abs().max() <= 1


def test_fuse_without_micro_or_base_planes_and_its_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    micro = torch.randn(2, 3, F_MIC, K, K, generator=generator, requires_grad=True)
    base = torch.randn(M, 3, F_MAC, K, K, generator=generator)
    own = torch.randn(2, M, generator=generator, requires_grad=True)
    whole = fuse(micro, own, base)
    by_hand = sum(own[1, m] * base[m] for m in range(M))
    torch.testing.assert_close(whole[1], torch.cat([micro[1], by_hand], dim=1))
    whole.sum().backward()
    assert micro.grad is not None and torch.equal(micro.grad, torch.ones_like(micro))
    torch.testing.assert_close(own.grad, base.flatten(1).sum(1).expand(2, M))
    torch.testing.assert_close(fuse(micro[:, :, :0], own, base), whole[:, :, F_MIC:])
    assert torch.equal(fuse(micro, own[:, :0], base[:0, :, :0]), micro)


def test_fusing_keeps_float32_where_a_training_computes_in_less() -> None:
    base, own = torch.randn(M, 3, F_MAC, K, K), torch.randn(2, M)
    micro = torch.randn(2, 3, F_MIC, K, K)
    with torch.autocast("cpu", torch.bfloat16):
        found = fuse(micro, own, base)
    assert found.dtype == torch.float32 and torch.equal(found, fuse(micro, own, base))


def test_without_torch_the_error_says_what_to_install() -> None:
    code = "import sys; sys.modules['torch'] = None; import storage.reader; import storage.torch_data"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "EnvironmentProblem" in done.stderr and "pip install torch" in done.stderr


def test_a_variant_without_micro_planes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    planes = PlanesStore.create_or_open(store, make_plan(store), fit_header(f_mic=0))
    write_shared(store)
    for shard in range(planes.n_shards):
        builder = planes.builder(shard, f"u{shard}")
        for row in planes.shard_rows(shard):
            builder.add(row, ObjectFit(None, object_fit(row).coefficients, 2))
        builder.commit()
    dataset = open_planes(tmp_path, "main")
    batch = next(iter(DataLoader(PlanesStream(dataset), batch_size=5)))
    assert batch["micro"].shape == (5, 3, 0, K, K)
    fused = Fuse(dataset)(batch["micro"], batch["coefficients"])
    expected = dataset[list(batch["id"])].planes()
    np.testing.assert_allclose(fused.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_is_refused(local: str) -> None:
    dataset = open_planes(local)
    for arguments, message in (
        ({"content": "images"}, "content"),
        ({"normalize": "std"}, "Fuse"),
        ({"content": "planes", "normalize": "max"}, "minmax"),
        ({"buffer": 0}, "buffer"),
        ({"rank": 1}, "together"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
    ):
        with pytest.raises(UsageError, match=message):
            next(iter(PlanesStream(dataset, **arguments)))  # type: ignore[arg-type]
    with pytest.raises(IndexError):
        PlanesMapDataset(dataset)[len(dataset)]
    state = PlanesStream(dataset, seed=1).state_after(1, 4, 0)
    with pytest.raises(UsageError, match="seed"):
        PlanesStream(dataset, seed=2).load_state_dict(state)


def test_a_replacement_meanwhile_is_an_error_and_not_a_mixture(tmp_path: Path) -> None:
    from .builders import full_dataset

    store = full_dataset(tmp_path)
    dataset: PlanesDataset = open_planes(tmp_path)
    stream = PlanesStream(dataset, buffer=1)
    mend_in_a_round(store, "planes")
    with pytest.raises(StaleSnapshotError, match="refresh"):
        list(DataLoader(stream, batch_size=2, num_workers=1, multiprocessing_context="fork"))
    dataset.refresh()
    assert len(list(PlanesStream(dataset))) == 5


def test_copies_of_a_stream_are_independent_but_for_the_epoch(local: str) -> None:
    stream = PlanesStream(open_planes(local), seed=3, buffer=8)
    stream.set_epoch(2)
    twin = copy.deepcopy(stream)
    assert [s["row"] for s in pickle.loads(pickle.dumps(stream))] == [s["row"] for s in twin]
