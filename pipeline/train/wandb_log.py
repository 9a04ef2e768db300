"""Logs a training to Weights & Biases: only when asked for, only where the package is installed.

Mode, entity, host and key come from the user's own WANDB_* variables, which only wandb reads; nothing of them
is recorded. A resumed training goes on in the same W&B run, whose id is the training's hash.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.errors import EnvironmentProblem


class WandbLog:
    """One W&B run.

    Args:
        project: W&B project.
        run_id: The training's hash.
        config: The train section of the config.
        folder: Local folder for wandb's own files; None leaves the choice to wandb.

    Raises:
        EnvironmentProblem: wandb is not installed, or could not start the run.
    """

    name = "Weights & Biases"

    def __init__(self, project: str, run_id: str, config: Mapping[str, Any], folder: str | None) -> None:
        try:
            import wandb
        except ImportError as error:
            raise EnvironmentProblem(
                "compute.monitor.wandb: the wandb package is not installed on this node: pip install wandb, "
                "or leave the setting away"
            ) from error
        self._image = wandb.Image
        with _explained("no run could be started", "run wandb login, or set WANDB_MODE=offline"):
            self._run = wandb.init(
                project=project, id=run_id, name=run_id, resume="allow", config=dict(config), dir=folder
            )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log values by tag; W&B drops those of steps that it has already.

        Raises:
            EnvironmentProblem: wandb refused; so do the other methods.
        """
        with _explained(f"step {step} was not taken"):
            self._run.log(dict(values), step=step)

    def images(self, step: int, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        """Log pictures [H, W, 3] by tag."""
        with _explained(f"pictures of step {step} were not taken"):
            self._run.log({tag: self._image(picture) for tag, picture in pictures.items()}, step=step)

    def save(self) -> None:
        """Nothing to do: wandb uploads by itself."""

    def close(self, failed: bool) -> None:
        """End the run, as failed or as finished."""
        with _explained("the run was not ended"):
            self._run.finish(exit_code=int(failed))


@contextlib.contextmanager
def _explained(what: str, help_with_it: str = "") -> Iterator[None]:
    """Makes an error of ours of what wandb raises: its own errors, its transports', and plain ones."""
    try:
        yield
    except Exception as error:
        hint = f": {help_with_it}" if help_with_it else ""
        reason = f"{type(error).__name__}: {error}"
        raise EnvironmentProblem(f"compute.monitor.wandb: {what} ({reason}){hint}") from error
