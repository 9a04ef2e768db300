"""One TensorBoard event file per training, which a resumed run continues instead of starting a second one.

Local datasets: the file grows in place, so that a running TensorBoard follows it. Remote ones: it grows in a
temporary file here and is copied up whole by `save`. Records of steps that a resumed run does again are cut
off first, so that every step stands there once.

Format: TFRecord framing (u64 length, masked crc32c of the length, payload, masked crc32c of the payload;
little endian) around `tensorflow.Event` messages.
"""

from __future__ import annotations

import io
import struct
import tempfile
import time
from collections.abc import Mapping
from typing import IO, Any, Final

import google_crc32c
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from storage.errors import EnvironmentProblem
from storage.store import Store

NAME: Final = "events.out.tfevents.0.fpipe"
"""TensorBoard looks for "tfevents" in the name."""
_FRAME_BYTES: Final = 16


class EventFile:
    """Appends scalars and images.

    Args:
        store: The dataset.
        folder: Key prefix of the TensorBoard folder.
        step: Step at which the training starts or goes on; later records are cut off.

    Raises:
        EnvironmentProblem: tensorboardX is not installed.
    """

    name = "the event file"

    def __init__(self, store: Store, folder: str, step: int) -> None:
        self._event, self._summary = event_messages()
        self._store, self._key = store, f"{folder}/{NAME}"
        path = store.local_path(self._key)
        if path is None:
            self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 lives as long as this object
            self._file.write(self._stored())
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        self._is_remote = path is None
        self._cut_after(step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record values by tag."""
        entries = [self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._append(step=step, summary=self._summary(value=entries))

    def images(self, step: int, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        """Record pictures [H, W, 3] by tag."""
        entries = [self._summary.Value(tag=tag, image=self._image(pic)) for tag, pic in pictures.items()]
        self._append(step=step, summary=self._summary(value=entries))

    def save(self) -> None:
        """Make sure that the dataset holds everything so far."""
        self._file.flush()
        if self._is_remote:
            self._file.seek(0)
            self._store.replace(self._key, self._file.read())

    def close(self, failed: bool) -> None:
        """Save and close, however the training ended."""
        self.save()
        self._file.close()

    def _stored(self) -> bytes:
        try:
            return self._store.read(self._key)
        except FileNotFoundError:
            return b""

    def _cut_after(self, step: int) -> None:
        self._file.seek(0)
        data = self._file.read()
        end = 0
        for payload, after in records(data):
            if self._event.FromString(payload).step > step:
                break
            end = after
        self._file.truncate(end)
        self._file.seek(end)
        if end == 0:
            self._append(file_version="brain.Event:2")

    def _append(self, **fields: Any) -> None:
        payload = self._event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(payload))
        self._file.write(length + _masked_crc(length) + payload + _masked_crc(payload))
        self._file.flush()

    def _image(self, picture: NDArray[np.uint8]) -> Any:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        height, width = picture.shape[:2]
        return self._summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=buffer.getvalue()
        )


def event_messages() -> tuple[Any, Any]:
    """The message types `tensorflow.Event` and `tensorflow.Summary`.

    Raises:
        EnvironmentProblem: tensorboardX is not installed.
    """
    try:
        from tensorboardX.proto import event_pb2, summary_pb2
    except ImportError as error:
        raise EnvironmentProblem(
            f"compute.monitor.tensorboard needs tensorboardX ({error}): pip install -e '.[train]', "
            "or --set compute.monitor.tensorboard=false"
        ) from error
    return event_pb2.Event, summary_pb2.Summary


def records(data: bytes) -> list[tuple[bytes, int]]:
    """Payloads of a file's whole records, each with the offset of its end; a torn end is left out."""
    found, start = [], 0
    while start + _FRAME_BYTES <= len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        payload = data[start + 12 : start + 12 + length]
        end = start + _FRAME_BYTES + length
        if end > len(data) or data[end - 4 : end] != _masked_crc(payload):
            break
        found.append((payload, end))
        start = end
    return found


def _masked_crc(data: bytes) -> bytes:
    """TFRecord's checksum: crc32c, rotated and shifted, so that checksums of checksums stay meaningful."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
