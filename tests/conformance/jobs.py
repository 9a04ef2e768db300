"""How the stage is started: one driver here, one on a Ray cluster, or the members of a job array.

The arrays are real processes with the environment that Slurm and Kubernetes give them; what happens to a
member that ends otherwise than with 0 is what those would do with the scripts of deploy/.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import TINY, clean_environment

SHARED_VERSION = "feedfeedfeedfeed"
DRAINED = 75
FAILED_OBJECTS = 42
MEMBERS = 3
BACKOFF_LIMIT_PER_INDEX = 3


@dataclass
class Job:
    """One way to run the stage.

    Attributes:
        root: The dataset.
        folder: For what the drivers say.
        plot: What goes wrong, as JSON.
        options: Of the command line, beside those of the stage.
        environment: Of the drivers, beside this process's own.
        processes: Drivers that were started, in order; each leads a process group.
        lost: Those that went away with their node.
        ends: Member (0 where there is one driver) → the code of its last end.
    """

    root: Path | str
    folder: Path
    plot: str
    options: Sequence[str] = ()
    environment: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    lost: list[subprocess.Popen[str]] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)

    def start(self, shard: str = "all", **environment: str) -> subprocess.Popen[str]:
        """Start one driver."""
        settings = ["--shared", SHARED_VERSION, "--preset", str(TINY), "--name", "made", "--shard", shard]
        command = [sys.executable, "-m", "tests.conformance.driver", self.plot, "fit-objects", str(self.root)]
        with (self.folder / "said.txt").open("a") as said:
            process = subprocess.Popen(
                [*command, *settings, *self.options],
                stdout=subprocess.DEVNULL,
                stderr=said,
                text=True,
                env=clean_environment(**self.environment, **environment),
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def run(self) -> list[int]:
        """Run to the end, as somebody would who starts it and goes; returns the codes of all ends."""
        self.ends[0] = self.start().wait(200)
        return [self.ends[0]]


class SlurmArray(Job):
    """`sbatch --array=0-2`: a member that was drained (75) or whose node went is queued again (--requeue).

    Any other one that does not end with 0 has failed.
    """

    def run(self) -> list[int]:
        def environment(index: int) -> dict[str, str]:
            return {"SLURM_ARRAY_TASK_ID": str(index), "SLURM_ARRAY_TASK_COUNT": str(MEMBERS)}

        return self._run(environment, lambda code, failures: code == DRAINED)

    def _run(
        self, environment: Callable[[int], dict[str, str]], again: Callable[[int, int], bool]
    ) -> list[int]:
        codes: list[int] = []
        failures = dict.fromkeys(range(MEMBERS), 0)
        members = {index: self.start("auto", **environment(index)) for index in range(MEMBERS)}
        deadline = time.monotonic() + 200
        while members:
            assert time.monotonic() < deadline, "the array does not end"
            for index, process in list(members.items()):
                if process.poll() is None:
                    continue
                del members[index]
                codes.append(process.returncode)
                self.ends[index] = process.returncode
                failures[index] += process.returncode not in (0, DRAINED)
                if process in self.lost or (
                    process.returncode and again(process.returncode, failures[index])
                ):
                    members[index] = self.start("auto", **environment(index))
            time.sleep(0.05)
        return codes


class IndexedJob(SlurmArray):
    """Kubernetes: an index is tried again up to its limit; 42 fails it, drained or lost pods do not count."""

    def run(self) -> list[int]:
        def environment(index: int) -> dict[str, str]:
            return {"JOB_COMPLETION_INDEX": str(index), "FPIPE_NUM_SHARDS": str(MEMBERS)}

        def again(code: int, failures: int) -> bool:
            return code == DRAINED or (code != FAILED_OBJECTS and failures <= BACKOFF_LIMIT_PER_INDEX)

        return self._run(environment, again)


def plot(fault: str, shard: int, folder: Path, **others: float) -> str:
    """What goes wrong, as JSON for the driver; others are fields of `work.Plot`."""
    folder.mkdir(parents=True, exist_ok=True)
    return json.dumps({"fault": fault, "shard": shard, "folder": str(folder), **others})
