"""Adam on tensors whose first axis is objects, touching only the objects of a step.

Every object keeps its own moments and step count, so that its path does not depend on which other objects are
optimised with it, and a step costs nothing for the objects that are not in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam

from pipeline.train.schedule import BETAS

# Micro-plane gradients (~1e-9) lie below Adam's usual epsilon of 1e-8, which would then act as a learning
# rate.
EPSILON = 1e-15


class RowAdam:
    """Adam with state per row.

    Attributes:
        values: [N, ...] what is optimised, changed in place.
        steps: [N] updates that each row has had.
    """

    def __init__(self, values: Tensor, betas: tuple[float, float] = BETAS) -> None:
        self.values, self._betas = values, betas
        # float32 counts to 16 million exactly, and is what torch's fused kernel takes.
        self.steps = torch.zeros(values.shape[0], dtype=torch.float32, device=values.device)
        self._mean = torch.zeros_like(values)
        self._square = torch.zeros_like(values)

    @torch.no_grad()
    def reset(self, row: int, values: Tensor) -> None:
        """Begin a row anew at values [...], without moments."""
        self.values[row] = values
        for state in (self.steps, self._mean, self._square):
            state[row] = 0.0

    @torch.no_grad()
    def update(
        self, rows: Sequence[int] | None, grad: Tensor, learning_rate: float | Sequence[float]
    ) -> None:
        """Apply one step to rows.

        Args:
            rows: [B] distinct indices, or None for all rows in order.
            grad: [B, ...] gradient of those rows.
            learning_rate: Step size of all rows, or [B] of each.
        """
        rows = range(len(self.values)) if rows is None else rows
        if isinstance(learning_rate, float):
            self._fused(rows, grad, learning_rate)
        elif len(set(learning_rate)) == 1:
            self._fused(rows, grad, learning_rate[0])
        elif grad.device.type == "cpu":
            for i, (row, rate) in enumerate(zip(rows, learning_rate, strict=True)):
                self._fused([row], grad[i : i + 1], rate)
        else:
            self._vectorised(rows, grad, learning_rate)

    def _vectorised(self, rows: Sequence[int], grad: Tensor, learning_rates: Sequence[float]) -> None:
        """Rows with rates of their own in a few kernels, where a launch per row would cost more."""
        beta1, beta2 = self._betas
        index = torch.tensor(list(rows), device=grad.device)
        shape = (-1,) + (1,) * (grad.dim() - 1)
        self.steps[index] += 1.0
        steps = self.steps[index].view(shape)
        mean = torch.lerp(self._mean[index], grad, 1.0 - beta1)
        square = (self._square[index] * beta2).addcmul_(grad, grad, value=1.0 - beta2)
        self._mean[index], self._square[index] = mean, square
        rates = torch.tensor(list(learning_rates), device=grad.device).view(shape) / (1.0 - beta1**steps)
        self.values[index] -= rates * mean / ((square / (1.0 - beta2**steps)).sqrt() + EPSILON)

    def _fused(self, rows: Sequence[int], grad: Tensor, learning_rate: float) -> None:
        # To the kernel each row is a parameter of its own: no copies of rows, and one pass over memory.
        adam(
            [self.values[i] for i in rows],
            list(grad.contiguous().unbind(0)),
            [self._mean[i] for i in rows],
            [self._square[i] for i in rows],
            [],
            [self.steps[i] for i in rows],
            fused=True,
            amsgrad=False,
            beta1=self._betas[0],
            beta2=self._betas[1],
            lr=learning_rate,
            weight_decay=0.0,
            eps=EPSILON,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Values, moments and counts."""
        return {"values": self.values, "steps": self.steps, "mean": self._mean, "square": self._square}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict`."""
        self.values.copy_(state["values"])
        self.steps.copy_(state["steps"])
        self._mean.copy_(state["mean"])
        self._square.copy_(state["square"])
