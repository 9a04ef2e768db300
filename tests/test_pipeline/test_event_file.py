"""The event file: readable by the format's rules, every step once, local and remote alike."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from pipeline.train.event_file import NAME, EventFile
from storage.store import Store


def _crc32c(data: bytes) -> int:
    """CRC-32C bit by bit, from its definition: reflected polynomial 0x82F63B78."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _masked(data: bytes) -> int:
    crc = _crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read_events(data: bytes) -> list[Event]:
    """All events, with both checksums of every record checked."""
    stream, events = io.BytesIO(data), []
    while head := stream.read(12):
        length, crc = struct.unpack("<QI", head)
        assert crc == _masked(head[:8])
        payload = stream.read(length)
        assert struct.unpack("<I", stream.read(4))[0] == _masked(payload)
        events.append(Event.FromString(payload))
    return events


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(tmp_path if request.param == "local" else f"memory://events/{tmp_path.name}")


def _events(store: Store) -> list[Event]:
    return read_events(store.read(f"runs/a/tensorboard/{NAME}"))


def test_scalars_and_images_stand_in_the_file(store: Store) -> None:
    file = EventFile(store, "runs/a/tensorboard", 0)
    file.scalars(3, {"loss/a": 0.5, "loss/b": float("nan")})
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    file.images(5, {"view": picture})
    file.close(failed=False)
    version, scalars, images = _events(store)
    assert version.file_version == "brain.Event:2"
    assert [value.tag for value in scalars.summary.value] == ["loss/a", "loss/b"]
    assert scalars.summary.value[0].simple_value == 0.5
    assert (scalars.step, images.step) == (3, 5)
    image = images.summary.value[0].image
    assert (image.height, image.width, image.colorspace) == (4, 6, 3)
    with Image.open(io.BytesIO(image.encoded_image_string)) as shown:
        np.testing.assert_array_equal(np.asarray(shown), picture)


def test_a_resumed_run_has_every_step_once(store: Store) -> None:
    first = EventFile(store, "runs/a/tensorboard", 0)
    for step in (10, 20, 30):
        first.scalars(step, {"x": float(step)})
    first.close(failed=True)  # the newest checkpoint is of step 20
    second = EventFile(store, "runs/a/tensorboard", 20)
    second.scalars(30, {"x": -30.0})
    second.close(failed=False)
    assert [(event.step, event.summary.value[0].simple_value) for event in _events(store)[1:]] == [
        (10, 10.0),
        (20, 20.0),
        (30, -30.0),
    ]


def test_what_was_not_saved_is_not_in_a_remote_store() -> None:
    store = Store("memory://events/unsaved")
    file = EventFile(store, "runs/a/tensorboard", 0)
    file.scalars(1, {"x": 1.0})
    assert not store.exists(f"runs/a/tensorboard/{NAME}")
    file.save()
    assert len(_events(store)) == 2
    file.close(failed=False)


@pytest.mark.parametrize("cut", [1, 7, 20])
def test_a_torn_end_is_cut_off(tmp_path: Path, cut: int) -> None:
    store = Store(tmp_path)
    first = EventFile(store, "runs/a/tensorboard", 0)
    for step in (1, 2):
        first.scalars(step, {"x": 0.0})
    first.close(failed=True)
    path = tmp_path / "runs/a/tensorboard" / NAME
    path.write_bytes(path.read_bytes()[:-cut])
    second = EventFile(store, "runs/a/tensorboard", 2)
    second.scalars(3, {"x": 0.0})
    second.close(failed=False)
    assert [event.step for event in _events(store)] == [0, 1, 3]
