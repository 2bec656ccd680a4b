"""Peak arithmetic and memory of accelerators.

Sources: for TPUs cloud.google.com/tpu/docs/system-architecture, for GPUs NVIDIA's data sheets (without sparsity).
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class DevicePeak:
    """A device as JAX names it.

    kind: part of `jax.Device.device_kind`.
    tflops: peak in bfloat16 (float16 for V100 and T4), in TFLOP/s.
    topology: name of the chip in TPU topologies, such as `v5e:4x4`.
    memory_gib: high-bandwidth memory of a TPU chip.
    """

    kind: str
    tflops: int
    topology: str | None = None
    memory_gib: int | None = None


DEVICE_PEAKS = (  # the first whose kind is part of the device's name applies: longer names first
    DevicePeak("TPU v4", 275, topology="v4", memory_gib=32),
    DevicePeak("TPU v5 lite", 197, topology="v5e", memory_gib=16),
    DevicePeak("TPU v5e", 197),
    DevicePeak("TPU v5", 459, topology="v5p", memory_gib=95),
    DevicePeak("TPU v6", 918, topology="v6e", memory_gib=32),
    DevicePeak("B200", 2250),
    DevicePeak("H200", 989),
    DevicePeak("H100 PCIe", 756),
    DevicePeak("H100", 989),
    DevicePeak("A100", 312),
    DevicePeak("L40S", 362),
    DevicePeak("L4", 121),
    DevicePeak("A10", 125),
    DevicePeak("V100", 125),
    DevicePeak("T4", 65),
)
TPU_CHIPS = {peak.topology: peak for peak in DEVICE_PEAKS if peak.topology is not None}


def peak_tflops(device_kind: str) -> float | None:
    """Return the peak bfloat16 TFLOP/s of a device, or None if it is unknown."""
    return next((peak.tflops for peak in DEVICE_PEAKS if peak.kind in device_kind), None)
