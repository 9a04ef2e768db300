"""Which GPUs a machine offers, and their division among processes that run at the same time.

Ray does this on its own; here it is done for the executor without Ray. A process sees the GPUs that its
`CUDA_VISIBLE_DEVICES` names and no others.
"""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Mapping, Sequence

from storage.errors import EnvironmentProblem

VARIABLE = "CUDA_VISIBLE_DEVICES"
_TIMEOUT_S = 30.0


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Returns the names by which this process's GPUs are chosen: what the environment says, else all."""
    if VARIABLE in environment:
        return [name.strip() for name in environment[VARIABLE].split(",") if name.strip() not in {"", "-1"}]
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.split()


def gpu_slots(gpus_per_task: float, names: Sequence[str], workers: int) -> list[str | None]:
    """Divides GPUs among tasks.

    Args:
        gpus_per_task: 0 for none; below 1, several tasks share a GPU; above, a task gets several.
        names: The GPUs.
        workers: Tasks at a time, at most.

    Returns:
        One entry per task that may run at a time: the value of its CUDA_VISIBLE_DEVICES, None to leave it.

    Raises:
        EnvironmentProblem: There are fewer GPUs than one task needs.
    """
    if gpus_per_task <= 0.0:
        return [None] * workers
    size = math.ceil(gpus_per_task)
    groups: list[str | None] = [
        ",".join(names[first : first + size]) for first in range(0, len(names) - size + 1, size)
    ]
    if not groups:
        raise EnvironmentProblem(
            f"a task needs {gpus_per_task:g} GPUs, and this machine offers {len(names)}; set the stage's "
            "GPUs (compute.render_gpus, compute.fit_gpus) and its device for this machine"
        )
    together = max(1, int(1.0 / gpus_per_task + 1e-9))
    return [group for _ in range(together) for group in groups][:workers]
