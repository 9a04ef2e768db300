"""A child process that does what Blender might do on a very bad day; the mesh's file name says which."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from render_jobs.messages import ChannelClosedError, receive, send

MATRIX = [float(i % 5 == 0) for i in range(16)]


def answer(head: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """A good answer: black images."""
    settings = head["settings"]
    shape = [head["n_views"], settings["height"], settings["width"], 4]
    body = bytes(shape[0] * shape[1] * shape[2] * 4)
    info = {"tmp": tempfile.gettempdir()}
    return {"ok": True, "shapes": {"images": shape}, "mesh_to_world": MATRIX, "info": info}, body


def say(text: str) -> None:
    """Writes a line where a crash cannot lose it."""
    os.write(1, f"{text}\n".encode())


def sleeper() -> subprocess.Popen[bytes]:
    """A process that holds all our pipes open and does not care about its parent."""
    return subprocess.Popen(["sleep", "300"], close_fds=False)


def main() -> None:
    """Serves requests."""
    request_fd, answer_fd = int(sys.argv[1]), int(sys.argv[2])
    send(answer_fd, {"ok": True})
    while True:
        try:
            head, _ = receive(request_fd, 1 << 30)
        except ChannelClosedError:
            return
        match Path(head["path"]).stem:
            case "deaf":  # answers, then never reads again
                send(answer_fd, *answer(head))
                time.sleep(300)
            case "flood":
                block = b"x" * (1 << 20)
                ends = time.monotonic() + 2.0
                while time.monotonic() < ends:
                    with contextlib.suppress(OSError):  # no room
                        os.write(2, block)
                os.write(2, b"the last words\n")
                os.abort()
            case "orphan":
                for fd in (request_fd, answer_fd):
                    os.set_inheritable(fd, True)
                say(f"grandchild {sleeper().pid}")
                os.abort()
            case "litter":
                Path(tempfile.mkdtemp(prefix="blender_"), "texture.exr").write_bytes(bytes(1 << 20))
                say("Writing: crash.txt")
                os.abort()
            case "no_memory":
                say("terminate called after throwing an instance of 'std::bad_alloc'")
                os.abort()
            case "quiet_exit":
                os._exit(3)
            case "wrong_shape":
                found, body = answer(head)
                send(answer_fd, {**found, "shapes": {"images": [1, 2, 2, 4]}}, body[:16])
            case "no_fields":
                send(answer_fd, {"ok": True}, b"")
            case "nested":
                text = b"[" * 100_000
                os.write(answer_fd, len(text).to_bytes(4, "little") + bytes(8))
                for start in range(0, len(text), 4096):
                    os.write(answer_fd, text[start : start + 4096])
            case "huge":
                os.write(answer_fd, (2).to_bytes(4, "little") + (1 << 40).to_bytes(8, "little") + b"{}")
                time.sleep(300)
            case "allocate":
                kept = [bytearray(os.urandom(1) * (1 << 26)) for _ in range(200)]
                send(
                    answer_fd,
                    {"ok": False, "kind": "x", "reason": str(len(kept)), "detail": "", "picture": ""},
                )
            case _:
                send(answer_fd, *answer(head))


if __name__ == "__main__":
    main()
