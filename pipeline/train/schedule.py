"""Learning rates: one per group of parameters and phase, and how they fall within a phase.

Phases are counted in steps; a rate depends on the part of its phase that is done, so that a schedule keeps
its form when the number of steps changes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

BETAS = (0.9, 0.99)  # of every Adam in training, and of fits that say nothing else


@dataclass(frozen=True)
class Rates:
    """Adam's learning rates of one phase."""

    micro: float = 1e-2
    coefficients: float = 1e-2
    base: float = 1e-2
    renderer: float = 1e-2
    autoencoder: float = 0.0

    def scaled(self, by: float) -> Rates:
        """All rates times a factor."""
        return Rates(**{name: rate * by for name, rate in asdict(self).items()})

    def __str__(self) -> str:
        """Name and rate of every group that is trained: "micro 0.01, coefficients 0.01, …"."""
        return ", ".join(f"{name} {rate:.3g}" for name, rate in asdict(self).items() if rate)


@dataclass(frozen=True)
class Decay:
    """How rates fall from 1 within a phase.

    Attributes:
        kind: Exponential: evenly in the logarithm, to `final` at the phase's end. Multistep: times `gamma` at
            every milestone.
        final: Factor at the end of an exponential phase.
        milestones: Parts of the phase in (0, 1), ascending. Epoch 20 of 50 is 0.4.
        gamma: Factor at a milestone.
    """

    kind: Literal["exponential", "multistep"] = "exponential"
    final: float = 0.1
    milestones: tuple[float, ...] = (0.4, 0.8)
    gamma: float = 0.3

    def at(self, progress: float) -> float:
        """Factor after a part `progress` of the phase, 0 to 1."""
        if self.kind == "exponential":
            return float(self.final**progress)
        return float(self.gamma ** sum(progress >= milestone for milestone in self.milestones))
