"""Adam on tensors whose first axis is objects, touching only the objects of a step.

Every object keeps its own moments and step count, so that its path does not depend on which other objects are
optimised with it, and a step costs nothing for the objects that are not in it.
"""

from __future__ import annotations

import torch
from torch import Tensor

BETA1, BETA2 = 0.9, 0.99
# Micro-plane gradients (~1e-9) lie below Adam's usual epsilon of 1e-8, which would then act as a learning
# rate.
EPSILON = 1e-15


class RowAdam:
    """Adam with state per row.

    Attributes:
        values: [N, ...] what is optimised, changed in place.
        steps: [N] updates that each row has had.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.steps = torch.zeros(values.shape[0], dtype=torch.long, device=values.device)
        self._mean = torch.zeros_like(values)
        self._square = torch.zeros_like(values)

    @torch.no_grad()
    def update(self, rows: Tensor | None, grad: Tensor, learning_rate: float) -> None:
        """Apply one step to rows.

        Args:
            rows: [B] distinct indices, or None for all rows in order.
            grad: [B, ...] gradient of those rows.
            learning_rate: Step size.
        """
        if rows is None:
            self._step(self.values, self._mean, self._square, self.steps, grad, learning_rate)
            return
        values, mean, square, steps = (
            self.values[rows],
            self._mean[rows],
            self._square[rows],
            self.steps[rows],
        )
        self._step(values, mean, square, steps, grad, learning_rate)
        self.values[rows], self._mean[rows], self._square[rows], self.steps[rows] = (
            values,
            mean,
            square,
            steps,
        )

    @staticmethod
    def _step(
        values: Tensor, mean: Tensor, square: Tensor, steps: Tensor, grad: Tensor, learning_rate: float
    ) -> None:
        """Adam in place, with each row's own bias correction."""
        steps += 1
        mean.lerp_(grad, 1.0 - BETA1)
        square.mul_(BETA2).addcmul_(grad, grad, value=1.0 - BETA2)
        count = steps.to(torch.float64)
        shape = (-1, *[1] * (grad.ndim - 1))
        scale1 = (learning_rate / (1.0 - BETA1**count)).to(grad.dtype).view(shape)
        scale2 = (1.0 - BETA2**count).rsqrt().to(grad.dtype).view(shape)
        values.sub_((square.sqrt() * scale2).add_(EPSILON).reciprocal_().mul_(mean).mul_(scale1))

    def state_dict(self) -> dict[str, Tensor]:
        """Values, moments and counts."""
        return {"values": self.values, "steps": self.steps, "mean": self._mean, "square": self._square}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict`."""
        self.values.copy_(state["values"])
        self.steps.copy_(state["steps"])
        self._mean.copy_(state["mean"])
        self._square.copy_(state["square"])
