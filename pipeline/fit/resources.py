"""What a fit computes with; nothing of it changes what a fit becomes by more than rounding."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass

import torch

from pipeline.fit.settings import FitSettings
from pipeline.model.kernel_choice import Kernel
from pipeline.model.shared import SharedComponents
from pipeline.train.settings import AutoencoderRecipe, JointSettings

MEMORY_SHARE = 0.8
"""Of a device's memory that a batch is planned for."""
MOST_ON_GPU, MOST_ON_CPU = 128, 8
"""The host keeps all views of each object. A CPU takes one after the other in most of a step: more at a time
cost memory and gain nothing."""


@dataclass(frozen=True)
class FitResources:
    """What one fit task computes with.

    Attributes:
        threads: torch threads on the CPU.
        device: "cpu" or "cuda".
        kernel: What decodes points, see `pipeline.model.kernel_choice`.
        gpu_share: Of a GPU, where other tasks have the rest of it.
    """

    threads: int = 1
    device: str = "cpu"
    kernel: Kernel = "torch"
    gpu_share: float = 1.0

    @staticmethod
    def of(cpus: float, gpus: float, kernel: Kernel) -> FitResources:
        """What a task of so many cores and GPUs has."""
        share = min(1.0, gpus) if gpus else 1.0
        return FitResources(max(1, int(cpus)), "cuda" if gpus else "cpu", kernel, share)

    def memory_bytes(self) -> int:
        """The task's share of its device's whole memory, whatever of it is free at the moment."""
        if self.device != "cpu":
            return int(self.gpu_share * torch.cuda.get_device_properties(self.device).total_memory)
        share = min(1.0, self.threads / (os.cpu_count() or 1))
        return int(share * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


ONE_CORE = FitResources()


def planned_batch(
    shared: SharedComponents, settings: FitSettings, n_views: int, resources: FitResources
) -> int:
    """Objects in one tensor step that the task's memory has room for, at least 1.

    A pure function of sizes and the device's whole memory: a restart, and every task on such a device, plans
    the same.

    Args:
        shared: Shared components.
        settings: Of the fit.
        n_views: Training views of an object.
        resources: Of the task.
    """
    from pipeline.train.footprint import WorkerLoad, fit_footprint

    M, _, f_mac, K, _ = shared.base_planes.shape
    sizes = JointSettings(
        AutoencoderRecipe(),
        shared.geometry,
        resolution=K,
        f_mic=shared.f_mic,
        f_mac=f_mac,
        n_base=M,
        width=shared.renderer.width,
    )
    autoencoder = copy.deepcopy(shared.autoencoder).to("meta")
    one, two = (
        fit_footprint(settings, sizes, autoencoder, WorkerLoad(n, n_views, shared.size_px)).total
        for n in (1, 2)
    )
    room = int(MEMORY_SHARE * resources.memory_bytes()) - one
    most = MOST_ON_CPU if resources.device == "cpu" else MOST_ON_GPU
    return max(1, min(most, 1 + room // max(1, two - one)))
