"""Tasks that go wrong in a known way, importable by name from any process."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

from storage.errors import StoreMismatchError


def square(shard: int) -> dict[str, Any]:
    return {"value": shard * shard}


def warn_and_square(shard: int) -> dict[str, Any]:
    """Logs a line that looks like a format, and answers."""
    logger = logging.getLogger("tests.faults")
    logger.warning("shard %d at 50%% {}", shard)
    logger.debug("not for the driver")
    return {"value": shard * shard}


def refuse_shard_one(shard: int) -> dict[str, Any]:
    if shard == 1:
        raise StoreMismatchError("shard 1 is refused")
    return {"value": shard}


def die(shard: int) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def die_once(shard: int, folder: str) -> dict[str, Any]:
    mark = Path(folder) / "died"
    if shard == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"value": shard}


def leave(shard: int) -> dict[str, Any]:
    """Ends with the code of faulthandler's watchdog."""
    os._exit(1)


def memory_once(shard: int, folder: str) -> dict[str, Any]:
    mark = Path(folder) / "full"
    if shard == 1 and not mark.exists():
        mark.touch()
        raise MemoryError("no memory left")
    return {"value": shard}


def where(shard: int, seconds: float) -> dict[str, Any]:
    """Answers with the process and the Ray node that worked."""
    import ray

    time.sleep(seconds)
    return {"pid": os.getpid(), "node": ray.get_runtime_context().get_node_id()}


def hang(shard: int) -> dict[str, Any]:
    time.sleep(3600)
    return {}


def write_pid_and_wait(shard: int, folder: str) -> dict[str, Any]:
    """Leaves its process's id in a file of its own, and goes on when there is a file "go"."""
    (Path(folder) / f"{shard}.part").write_text(str(os.getpid()))
    (Path(folder) / f"{shard}.part").rename(Path(folder) / f"{shard}.pid")
    while not (Path(folder) / "go").exists():
        time.sleep(0.05)
    return {"n_ok": 1, "n_failed": 0}


def first_answers_second_writes_its_pid_and_hangs(shard: int, folder: str) -> dict[str, Any]:
    if shard == 0:
        wait_for_pid(Path(folder))
        return {}
    temporary = Path(folder) / "pid.part"
    temporary.write_text(str(os.getpid()))
    temporary.rename(Path(folder) / "pid")
    time.sleep(3600)
    return {}


def wait_for_pid(folder: Path) -> int:
    deadline = time.monotonic() + 60
    while not (folder / "pid").exists():
        assert time.monotonic() < deadline, "the process did not start"
        time.sleep(0.05)
    return int((folder / "pid").read_text())


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
