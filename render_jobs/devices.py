"""Which processor Cycles renders on. Runs in the child process only.

One process uses one GPU: the first that it can see, so `CUDA_VISIBLE_DEVICES` (set per task by the executors)
decides which. Pixels of a GPU and of a CPU differ in rounding; the device is recorded with every object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import bpy

if TYPE_CHECKING:
    from render_jobs.config import Device


class DeviceError(RuntimeError):
    """The device asked for is not on this machine."""


def use_device(scene: bpy.types.Scene, device: Device) -> None:
    """Makes a scene render on a device.

    Args:
        scene: Its Cycles settings are changed.
        device: "cpu", or a GPU backend: "optix", "cuda".

    Raises:
        DeviceError: This machine, or this build of Blender, has no such GPU.
    """
    if device == "cpu":
        scene.cycles.device = "CPU"
        return
    preferences = bpy.context.preferences.addons["cycles"].preferences
    backend = device.upper()
    try:
        preferences.compute_device_type = backend
    except TypeError as error:
        raise DeviceError(f"this build of Blender cannot render with {device}") from error
    found = [entry for entry in preferences.get_devices_for_type(backend) if entry.type == backend]
    if not found:
        raise DeviceError(f"no {device} device is visible to Blender; set compute.limits.device=cpu")
    for entry in preferences.devices:
        entry.use = entry.id == found[0].id
    scene.cycles.device = "GPU"
