"""When an object's fit slows down or ends: decided on its own training loss at fixed intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stopping:
    """How a phase of a fit ends before its last step.

    Attributes:
        gain: Least fall of an interval's mean loss, as a share of the interval's before; an interval with
            less lowers the learning rate. 0 turns this off.
        factor: On the rate, every time.
        lowered: How often the rate is lowered before the phase ends.
    """

    gain: float = 0.0
    factor: float = 0.3
    lowered: int = 2


@dataclass
class Pace:
    """One object's pace within a phase.

    Attributes:
        scale: Factor on the learning rates.
        ended: Whether further steps would gain too little.
    """

    stopping: Stopping
    scale: float = 1.0
    ended: bool = False
    _lowered: int = 0
    _before: float = field(default=math.inf)

    def see(self, loss: float) -> None:
        """Take the mean loss of an interval."""
        rule = self.stopping
        too_little = rule.gain > 0 and loss > (1.0 - rule.gain) * self._before
        self._before = loss
        if too_little and self._lowered == rule.lowered:
            self.ended = True
        elif too_little:
            self._lowered += 1
            self.scale *= rule.factor
