"""Peak arithmetic and memory of accelerators.

Sources: for TPUs cloud.google.com/tpu/docs/system-architecture, for GPUs NVIDIA's data sheets (without sparsity). The
memory of a GPU is what CUDA reports as its total, which is less than the name of the card says: PyTorch prints it when
it runs out of memory.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class DevicePeak:
    """A device as JAX names it.

    kind: part of `jax.Device.device_kind`.
    tflops: peak in bfloat16 (float16 for V100 and T4), in TFLOP/s.
    topology: name of the device in topologies, such as `v5e:4x4` or `h100:8`.
    memory_gib: memory of the device.
    """

    kind: str
    tflops: int
    topology: str | None = None
    memory_gib: float | None = None


DEVICE_PEAKS = (  # the first whose kind is part of the device's name applies: longer names first
    DevicePeak("TPU v4", 275, topology="v4", memory_gib=32),
    DevicePeak("TPU v5 lite", 197, topology="v5e", memory_gib=16),
    DevicePeak("TPU v5e", 197),
    DevicePeak("TPU v5", 459, topology="v5p", memory_gib=95),
    DevicePeak("TPU v6", 918, topology="v6e", memory_gib=32),
    DevicePeak("B200", 2250, topology="b200", memory_gib=178.35),
    DevicePeak("H200", 989, topology="h200", memory_gib=139.81),
    DevicePeak("H100 PCIe", 756),
    DevicePeak("H100", 989, topology="h100", memory_gib=79.11),
    DevicePeak("A100-SXM4-40GB", 312, topology="a100_40", memory_gib=39.5),
    DevicePeak("A100", 312, topology="a100", memory_gib=79.25),
    DevicePeak("RTX 4090", 165, topology="rtx4090", memory_gib=23.64),
    DevicePeak("L40S", 362, topology="l40s", memory_gib=44.52),
    DevicePeak("L40", 181),
    DevicePeak("L4", 121, topology="l4", memory_gib=22.03),
    DevicePeak("A10G", 70, topology="a10g", memory_gib=22.06),
    DevicePeak("A10", 125),
    DevicePeak("V100", 125),
    DevicePeak("T4", 65),
)
DESCRIBED = {peak.topology: peak for peak in DEVICE_PEAKS if peak.topology is not None}
TPU_CHIPS = {topology: peak for topology, peak in DESCRIBED.items() if peak.kind.startswith("TPU")}
GPUS = {topology: peak for topology, peak in DESCRIBED.items() if topology not in TPU_CHIPS}


def peak_tflops(device_kind: str) -> float | None:
    """Return the peak bfloat16 TFLOP/s of a device, or None if it is unknown."""
    return next((peak.tflops for peak in DEVICE_PEAKS if peak.kind in device_kind), None)
