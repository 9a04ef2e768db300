"""The dataset of a soak: many shards of one object each, small views, and few steps of everything."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.conftest import TINY, clean_environment

CLASSES = ("car", "sofa", "cabinet", "speaker")
SHARDS_PER_WORKER = 4
"""Shards that a plan makes for each of `--workers`, as long as there are objects (storage.plan)."""
TRAINING = ("--set", "compute.train_cpus=1")
"""Threads decide the last bits of shared components."""
WHOLE_LIMIT_S = 900.0


@dataclass(frozen=True)
class Case:
    """What every dataset of one soak is made of.

    Attributes:
        shards: Shards of the render stage, and of the fit stage; each has one object.
        folder: For notes and for what the commands say.
        environment: Of every command.
    """

    shards: int
    folder: Path
    environment: dict[str, str]

    def below(self, name: str) -> Case:
        """Returns the same in a folder of its own."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        return replace(self, folder=folder)

    def notes(self, stage: str) -> Path:
        """Returns the folder of the notes about attempts at a stage; see tests.soak.work."""
        folder = self.folder / "notes" / stage
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def said(self) -> Path:
        """What the commands wrote to stderr."""
        return self.folder / "said.txt"

    def command(self, stage: str, root: Path, *options: str) -> list[str]:
        """Returns the command line of a stage, whose attempts leave notes."""
        classes = ", ".join(f"{name}: {self.shards // len(CLASSES)}" for name in CLASSES)
        first = ["--preset", str(TINY), "--set", f"source.classes={{{classes}}}"] if stage == "render" else []
        training = TRAINING if stage == "train-shared" else ()
        own = [str(self.notes(stage)), stage, str(root), *first, *training, *options]
        return [sys.executable, "-m", "tests.soak.driver", *own]

    @contextlib.contextmanager
    def running(self, stage: str, root: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
        """Starts a stage; it does not outlive the block."""
        with self.said.open("a") as said:
            process = subprocess.Popen(
                self.command(stage, root, *options),
                stdout=subprocess.DEVNULL,
                stderr=said,
                text=True,
                env=clean_environment(**self.environment),
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def finish(self, stage: str, root: Path, *options: str) -> None:
        """Runs a stage to its end.

        Raises:
            RuntimeError: it ended with another code than 0; says what it said.
        """
        with self.running(stage, root, *options) as process:
            code = process.wait(WHOLE_LIMIT_S)
        if code:
            raise RuntimeError(f"{stage} ended with {code}:\n{self.said.read_text()[-3000:]}")

    def cut(self, stage: str, root: Path) -> None:
        """Does the first shard of a stage alone, which fixes how the stage is cut into shards."""
        workers = str(self.shards // SHARDS_PER_WORKER)
        self.finish(stage, root, "--executor", "local", "--workers", workers, "--shard", "0")

    def undisturbed(self, root: Path) -> None:
        """Makes the dataset that others are held against, or its rest, without Ray and in larger shards."""
        for stage in ("render", "train-shared", "fit-objects"):
            self.finish(stage, root, "--executor", "local", "--workers", "2")
        shutil.rmtree(self.folder / "notes")
