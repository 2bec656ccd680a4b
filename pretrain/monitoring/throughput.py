"""How fast a run goes, against what its devices could do, and what it has cost so far."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax

from data.pipeline.augmentation import count_kept_patches
from models.flops import count_forward_flops
from pretrain.config.run import PretrainSettings
from pretrain.losses.contrastive import RULES

# Dense bfloat16 TFLOP/s (float16 for V100 and T4) by a part of the device's name as JAX has it; the first that fits
# counts. From the makers' data sheets.
PEAK_TFLOPS = {
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5e": 197,
    "TPU v5": 459,
    "TPU v6": 918,
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10": 125,
    "V100": 125,
    "T4": 65,
}


def count_products(base: str, *, context: bool) -> int:
    """Returns the products of all pairs that an objective takes.

    The attention takes seven: its logits and mixtures, then the logits once more and four for gradients.
    """
    return RULES[base].products * (1 + context) + 7 * context


def count_pair_flops(settings: PretrainSettings) -> tuple[int, int]:
    """Returns the operations that a training step needs for one pair: in the towers, and in the objective.

    Three times the forward pass for the towers; for the objective its matrix products of each pair with the whole
    batch. What is recomputed to save memory does not count. All parameters are taken to be trained, and the context's
    buffer to be global.
    """
    kept = count_kept_patches(settings.vision.num_patches, settings.augmentation.keep_patches)
    model = settings.model(vocab_size=1)  # tokens are looked up, which is no product
    towers = 3 * count_forward_flops(model, kept_patches=kept)
    products = count_products(settings.objective.base, context=settings.objective.context)
    return towers, products * 2 * settings.batch_size * model.dim


def peak_tflops(kind: str) -> float | None:
    """Returns the bfloat16 TFLOP/s of a kind of device, None where they are not known."""
    return next((peak for name, peak in PEAK_TFLOPS.items() if name in kind), None)


class Stopwatch:
    """Time, steps and waiting for data since the last reading."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._began, self._waited, self._steps = time.monotonic(), 0.0, 0

    def next(self, batches: Iterator[Any], *, while_busy: Any) -> Any:
        """Returns the next batch; a wait for it counts where the step that makes `while_busy` was over before it."""
        began = time.monotonic()
        batch = next(batches)
        if all(array.is_ready() for array in jax.tree.leaves(while_busy)):
            self._waited += time.monotonic() - began
        self._steps += 1
        return batch

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out the time of what is done within."""
        began = time.monotonic()
        yield
        self._began += time.monotonic() - began

    def read(self, batch_size: int) -> dict[str, float]:
        """Returns the rates since the last reading and starts anew."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        rates = {
            "seconds": seconds,
            "pairs_per_second": self._steps * batch_size / seconds,
            "data_wait_share": self._waited / seconds,
        }
        self._reset()
        return rates


class Throughput:
    """Turns the rates of a run into shares of what its devices can do, its memory and its cost.

    `spent` are the seconds of the run's earlier sessions.
    """

    def __init__(self, settings: PretrainSettings, devices: Sequence[jax.Device], *, spent: float = 0.0):
        monitor = settings.monitor
        self._flops, self._devices = sum(count_pair_flops(settings)), len(devices)
        self._local = [device for device in devices if device.process_index == jax.process_index()]
        self._peak = monitor.peak_tflops or peak_tflops(devices[0].device_kind)
        self._price = monitor.price_per_hour
        self._began = time.monotonic() - spent

    def read(self, pairs_per_second: float) -> dict[str, float]:
        """Returns metrics by name; `model_flops_share` (MFU) only where the devices' peak is known."""
        each = pairs_per_second / self._devices
        found = {"pairs_per_second_per_device": each}
        if self._peak is not None:
            found["model_flops_share"] = each * self._flops / (self._peak * 1e12)
        found |= memory(self._local)
        found["run_seconds"] = time.monotonic() - self._began
        if self._price is not None:
            found["cost"] = found["run_seconds"] / 3600 * self._price
        return found


def memory(devices: Sequence[jax.Device]) -> dict[str, float]:
    """Returns the most that was used so far, in GB: on the fullest of the devices, and by this process on the host."""
    used = [device.memory_stats() or {} for device in devices]
    fullest = max(used, key=lambda stats: stats.get("peak_bytes_in_use", 0))
    found = {}
    if "peak_bytes_in_use" in fullest:
        found["device_memory_gb"] = fullest["peak_bytes_in_use"] / 1e9
    if "bytes_limit" in fullest:
        found["device_memory_limit_gb"] = fullest["bytes_limit"] / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return found | {"host_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}


def describe(values: Mapping[str, float]) -> list[str]:
    """Returns the parts of a progress line."""
    shown = [f"{values['pairs_per_second']:.0f} pairs/s"]
    if values["pairs_per_second_per_device"] < values["pairs_per_second"]:
        each = values["pairs_per_second_per_device"]
        shown.append(f"{each:.0f} a device" if each >= 100 else f"{each:.3g} a device")
    if "model_flops_share" in values:
        shown.append(f"MFU {values['model_flops_share']:.1%}")
    shown.append(f"waiting {values['data_wait_share']:.0%}")
    if "device_memory_gb" in values:
        limit = f" of {values['device_memory_limit_gb']:.0f}" if "device_memory_limit_gb" in values else ""
        shown.append(f"memory {values['device_memory_gb']:.1f}{limit} GB")
    else:
        shown.append(f"memory {values['host_memory_gb']:.1f} GB")
    if "cost" in values:
        shown.append(f"cost {values['cost']:.2f}")
    return shown
