"""Throughput of a run, compared with the peak of its devices, and its memory and cost."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax

from data.pipeline.augmentation import count_kept_patches
from models.config import ModelSettings
from models.flops import count_forward_flops
from pretrain.config.monitor import MonitorSettings
from pretrain.config.run import PretrainSettings
from pretrain.config.training import RunSettings
from pretrain.losses.contrastive import PAIRWISE_LOSSES
from pretrain.monitoring.device_peaks import peak_tflops

MFU = "mfu"  # model FLOPs utilization


class PairFlops(NamedTuple):
    """Operations of a training step per pair."""

    towers: int
    objective: int


def count_products(base: str, *, context: bool) -> int:
    """Return the number of products of all pairs of a batch in an objective.

    The attention takes seven: its logits and mixtures, then the logits again and four for gradients.
    """
    return PAIRWISE_LOSSES[base].products * (1 + context) + 7 * context


def count_pair_flops(settings: PretrainSettings) -> PairFlops:
    """Return the operations that a training step needs per pair.

    The towers take three times their forward pass, the objective its matrix products of a pair with the whole batch.
    What is recomputed to save memory does not count. All parameters are assumed to be trained, and the context's buffer
    to be global.
    """
    kept = count_kept_patches(settings.vision.num_patches, settings.augmentation.keep_patches)
    model = settings.model(vocab_size=1)  # token embeddings are looked up, which takes no product
    return count_flops(settings, model, kept_patches=kept)


def count_flops(settings: RunSettings, model: ModelSettings, *, kept_patches: int | None = None) -> PairFlops:
    """Return the operations that a training step of a model needs per pair, counted as in `count_pair_flops`."""
    products = count_products(settings.objective.base, context=settings.objective.context)
    return PairFlops(
        towers=3 * count_forward_flops(model, kept_patches=kept_patches),
        objective=products * 2 * settings.batch_size * model.dim,
    )


class Stopwatch:
    """Time, steps and waiting for data since the last reading."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._start, self._waited, self._steps = time.monotonic(), 0.0, 0

    def next(self, batches: Iterator[Any], *, while_busy: Any) -> Any:
        """Return the next batch; waiting for it counts if the step that computes `while_busy` had ended before."""
        start = time.monotonic()
        batch = next(batches)
        if all(array.is_ready() for array in jax.tree.leaves(while_busy)):
            self._waited += time.monotonic() - start
        self._steps += 1
        return batch

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of the body."""
        start = time.monotonic()
        yield
        self._start += time.monotonic() - start

    def read(self, batch_size: int) -> dict[str, float]:
        """Return the rates since the last reading, and restart."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        rates = {
            "seconds": seconds,
            "pairs_per_second": self._steps * batch_size / seconds,
            "data_wait_share": self._waited / seconds,
        }
        self._reset()
        return rates


class Throughput:
    """Metrics of hardware use: rate per device, MFU, memory, time and cost.

    `pair_flops` are the operations of a training step per pair, `spent` is the time of the
    run's earlier sessions in seconds.
    """

    def __init__(self, monitor: MonitorSettings, devices: Sequence[jax.Device], *, pair_flops: int, spent: float = 0.0):
        self._flops, self._devices = pair_flops, len(devices)
        self._local = [device for device in devices if device.process_index == jax.process_index()]
        self._peak = monitor.peak_tflops or peak_tflops(devices[0].device_kind)
        self._price = monitor.price_per_hour
        self._start = time.monotonic() - spent

    def read(self, pairs_per_second: float) -> dict[str, float]:
        """Return metrics by name; `mfu` only if the peak of the devices is known."""
        per_device = pairs_per_second / self._devices
        metrics = {"pairs_per_second_per_device": per_device}
        if self._peak is not None:
            metrics[MFU] = per_device * self._flops / (self._peak * 1e12)
        metrics |= memory(self._local)
        metrics["run_seconds"] = time.monotonic() - self._start
        if self._price is not None:
            metrics["cost"] = metrics["run_seconds"] / 3600 * self._price
        return metrics


def memory(devices: Sequence[jax.Device]) -> dict[str, float]:
    """Return the peak memory so far in GB, of the fullest device and of this process on the host."""
    stats = [device.memory_stats() or {} for device in devices]
    fullest = max(stats, key=lambda each: each.get("peak_bytes_in_use", 0))
    metrics = {}
    if "peak_bytes_in_use" in fullest:
        metrics["device_memory_gb"] = fullest["peak_bytes_in_use"] / 1e9
    if "bytes_limit" in fullest:
        metrics["device_memory_limit_gb"] = fullest["bytes_limit"] / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return metrics | {"host_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}


def describe(values: Mapping[str, float]) -> list[str]:
    """Return the parts of a progress line."""
    shown = [f"{values['pairs_per_second']:.0f} pairs/s"]
    if values["pairs_per_second_per_device"] < values["pairs_per_second"]:
        per_device = values["pairs_per_second_per_device"]
        shown.append(f"{per_device:.0f} per device" if per_device >= 100 else f"{per_device:.3g} per device")
    if MFU in values:
        shown.append(f"MFU {values[MFU]:.1%}")
    shown.append(f"waiting {values['data_wait_share']:.0%}")
    if "device_memory_gb" in values:
        limit = f" of {values['device_memory_limit_gb']:.0f}" if "device_memory_limit_gb" in values else ""
        shown.append(f"memory {values['device_memory_gb']:.1f}{limit} GB")
    else:
        shown.append(f"memory {values['host_memory_gb']:.1f} GB")
    if "cost" in values:
        shown.append(f"cost {values['cost']:.2f}")
    return shown
