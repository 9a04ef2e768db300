"""What a fit optimises: micro planes and coefficients of the objects in a batch's slots, each with its Adam.

Micro planes are optimised as a sum of levels, each of half the resolution of the one before and enlarged
bilinearly: a texel that few rays meet moves with its neighbours, which needs fewer steps and leaves fewer
holes than texels that each find their own way. What is stored is the sum, so that levels are no part of the
representation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.model.planes import fuse
from pipeline.model.shapes import Float, Int
from pipeline.model.shared import SharedComponents
from pipeline.train.row_adam import RowAdam
from pipeline.train.schedule import Rates

InitCode = tuple[npt.NDArray[np.float32] | None, npt.NDArray[np.float32]]
"""Micro planes [3, F_mic, K, K] or None, and coefficients [M]."""


class Leaves:
    """The variables of one step of some slots; takes tensors that are its own.

    Attributes:
        levels: Per level [B, 3, F_mic, K/2ˡ, K/2ˡ]; empty without micro planes.
        coefficients: [B, M].
        planes: [B, 3, F, K, K], fused of them.
    """

    def __init__(self, levels: Sequence[Tensor], coefficients: Tensor, base_planes: Tensor) -> None:
        self.levels = [level.requires_grad_() for level in levels]
        self.coefficients = coefficients.requires_grad_()
        micro = summed(self.levels) if self.levels else None
        self.planes = fuse(micro, self.coefficients, base_planes)


class CodeSlots:
    """Codes of at most n objects at a time.

    Args:
        shared: Frozen shared components; decide sizes and device, and where fits start.
        n: Slots.
        levels: Of the micro planes; 1 optimises them as they are.
        betas: Of Adam.
    """

    def __init__(self, shared: SharedComponents, n: int, levels: int, betas: tuple[float, float]) -> None:
        self._shared = shared
        self._coefficients = RowAdam(_zeros(n, shared.mean_coefficients), betas)
        self._levels: list[RowAdam] = []
        if shared.mean_micro is not None:
            *rest, K = shared.mean_micro.shape[:-1]
            sizes = [max(K >> level, 1) for level in range(levels)]
            like = shared.mean_micro
            self._levels = [RowAdam(like.new_zeros(n, *rest, size, size), betas) for size in sizes]

    def start(self, slot: int, code: InitCode | None) -> None:
        """Begin an object in a slot, from a code or, without one, from the mean object.

        A code without micro planes takes the mean object's.
        """
        micro, coefficients = self._shared.mean_micro, self._shared.mean_coefficients
        if code is not None:
            coefficients = torch.from_numpy(np.array(code[1], np.float32)).to(coefficients.device)
            if code[0] is not None:
                micro = torch.from_numpy(np.array(code[0], np.float32)).to(coefficients.device)
        self._coefficients.reset(slot, coefficients)
        for i, level in enumerate(self._levels):
            assert micro is not None
            level.reset(slot, micro if i == 0 else torch.zeros_like(level.values[slot]))

    def leaves(self, index: Int[Tensor, " b"]) -> Leaves:
        """Variables of slots in that order; `update` takes them back."""
        levels = [level.values[index] for level in self._levels]
        return Leaves(levels, self._coefficients.values[index], self._shared.base_planes)

    def update(
        self, slots: Sequence[int], leaves: Leaves, rates: Sequence[Rates], lambda_tv: float = 0.0
    ) -> None:
        """One step of Adam along the leaves' gradients.

        Args:
            slots: As given to `leaves`, on the host.
            leaves: After the backward of the objects' losses.
            rates: Of each slot.
            lambda_tv: Weight of each level's total variation in each object's loss.
        """
        for level, leaf in zip(self._levels, leaves.levels, strict=True):
            if leaf.grad is not None:
                if lambda_tv:
                    add_variation_gradient(leaf.grad, leaf.detach(), lambda_tv)
                level.update(slots, leaf.grad, [rate.micro for rate in rates])
        if leaves.coefficients.grad is not None:  # there are none without base planes
            coefficients = [rate.coefficients for rate in rates]
            self._coefficients.update(slots, leaves.coefficients.grad, coefficients)

    def code(self, slot: int) -> InitCode:
        """The code in a slot, as it is now."""
        levels = [level.values[slot : slot + 1] for level in self._levels]
        micro = _copied(summed(levels)[0]) if levels else None
        return micro, _copied(self._coefficients.values[slot])


def summed(levels: Sequence[Float[Tensor, "b p f _ _"]]) -> Float[Tensor, "b p f k k"]:
    """Micro planes of their levels, the finest first."""
    planes = levels[0]
    K = planes.shape[-1]
    for level in levels[1:]:
        enlarged = functional.interpolate(level.flatten(0, 1), (K, K), mode="bilinear", align_corners=False)
        planes = planes + enlarged.view(planes.shape)
    return planes


@torch.no_grad()
def add_variation_gradient(
    grad: Float[Tensor, "b 3 f k k"], planes: Float[Tensor, "b 3 f k k"], weight: float
) -> None:
    """Add the gradient of weight · `pipeline.train.losses.total_variation` of each object, in place.

    Written out: a tenth of the time of torch's own derivative, which makes copies for every difference.
    """
    for dim in (-1, -2):
        steps = planes.diff(dim=dim)
        steps *= 2.0 * weight / steps[0].numel() if steps[0].numel() else 0.0
        n = planes.shape[dim]
        grad.narrow(dim, 1, n - 1).add_(steps)
        grad.narrow(dim, 0, n - 1).sub_(steps)


def _copied(tensor: Tensor) -> npt.NDArray[np.float32]:
    """Not a view of the slot, which the next object changes."""
    return np.array(tensor.cpu().numpy(), np.float32)


def _zeros(n: int, like: Tensor) -> Tensor:
    return like.new_zeros(n, *like.shape)
