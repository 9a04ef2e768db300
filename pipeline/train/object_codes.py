"""Codes of one rank's objects while they are trained: micro planes and coefficients, with optimiser state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.model.shared import RegimeOneCodes
from pipeline.train.draws import seeded_generator
from pipeline.train.row_adam import RowAdam
from pipeline.train.schedule import Rates
from pipeline.train.settings import JointSettings

Leaves = tuple[Tensor | None, Tensor]
"""Micro planes [B, 3, F_mic, K, K] (None without them) and coefficients [B, M] of some objects."""


class ObjectCodes:
    """Codes of objects; each starts from numbers that depend on the seed and its id alone.

    Args:
        object_ids: The objects, N in all.
        settings: Sizes and initial scales.
        seed: Of the training.
        device: Where the codes lie.

    Attributes:
        object_ids: As given.
        micro: [N, 3, F_mic, K, K] with optimiser state, None for F_mic = 0.
        coefficients: [N, M] with optimiser state; M may be 0.
    """

    def __init__(
        self, object_ids: Sequence[str], settings: JointSettings, seed: int, device: torch.device
    ) -> None:
        self.object_ids = tuple(object_ids)
        s = settings
        # 1/sqrt(M) keeps the macro features at the base planes' scale (METHOD section 2).
        divisor = 1.0 / s.init_coefficients if s.init_coefficients else math.sqrt(max(s.n_base, 1))
        micro, coefficients = [], []
        for object_id in self.object_ids:
            own = seeded_generator("code", seed, object_id)
            coefficients.append(torch.randn(s.n_base, generator=own) / divisor)
            planes = torch.randn(3, s.f_mic, s.resolution, s.resolution, generator=own)
            micro.append(planes * s.init_scale)
        self.micro = RowAdam(torch.stack(micro).to(device)) if s.f_mic else None
        self.coefficients = RowAdam(torch.stack(coefficients).to(device))

    def leaves(self, rows: Sequence[int]) -> Leaves:
        """Copies of the codes of objects, as leaves of a step's graph."""
        index = torch.tensor(rows, device=self.coefficients.values.device)
        micro = None if self.micro is None else self.micro.values[index].requires_grad_()
        return micro, self.coefficients.values[index].requires_grad_()

    def update(self, rows: list[int], leaves: Leaves, rates: Rates) -> None:
        """Do one optimiser step of objects with the gradients of their leaves; none where there is none."""
        micro, coefficients = leaves
        if self.micro is not None and micro is not None and micro.grad is not None:
            self.micro.update(rows, micro.grad, rates.micro)
        if coefficients.grad is not None:
            self.coefficients.update(rows, coefficients.grad, rates.coefficients)

    def of(self, row: int) -> Leaves:
        """Code of one object as it is now: [3, F_mic, K, K] or None, and [M]; no copies."""
        return None if self.micro is None else self.micro.values[row], self.coefficients.values[row]

    def stored(self) -> RegimeOneCodes:
        """The codes as they are kept with the shared components."""
        micro = None if self.micro is None else self.micro.values.cpu().numpy()
        return RegimeOneCodes(self.object_ids, micro, self.coefficients.values.cpu().numpy())

    def state_dict(self) -> dict[str, Any]:
        """Values and optimiser state."""
        micro = None if self.micro is None else self.micro.state_dict()
        return {"coefficients": self.coefficients.state_dict(), "micro": micro}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; other keys of `state` are ignored."""
        self.coefficients.load_state_dict(state["coefficients"])
        if self.micro is not None:
            self.micro.load_state_dict(state["micro"])
