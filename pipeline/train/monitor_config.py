"""Configuration of what a training shows while it runs; nothing here changes its result."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class MonitorConfig(BaseModel):
    """What is recorded during train-shared. Never part of a content hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tensorboard: bool = Field(
        default=True, description="Write a TensorBoard event file into the training's run folder."
    )
    wandb: str | None = Field(
        default=None, description="Weights & Biases project to log to as well; WANDB_* variables apply."
    )
    scalars_every: int = Field(
        default=10, ge=1, description="Steps between two records of losses, rates and gradient norms."
    )
    pictures: int = Field(
        default=6, ge=0, description="Times that fixed views are drawn, closer together at first; 0: never."
    )
    objects: int = Field(
        default=3, ge=1, description="Objects that are drawn: a training and a held-out view of each."
    )
