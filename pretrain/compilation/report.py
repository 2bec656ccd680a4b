"""Report on a compiled training step: memory, arithmetic, traffic and verdict, as lines of text."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.sharding import Mesh

from pretrain.compilation.step import DeviceMemory
from pretrain.config.run import PretrainSettings
from pretrain.monitoring.device_peaks import DESCRIBED
from pretrain.monitoring.throughput import count_pair_flops

GB = 1e9
_MOST_RESERVED = 0.92  # of a GPU: the rest is for CUDA, cuDNN and NCCL


def read_figures(settings: PretrainSettings, needed: DeviceMemory, mesh: Mesh, *, topology: str) -> dict[str, Any]:
    """Return the figures of the report by name, for JSON; those that are unknown are None.

    Bytes and collectives are those of a device. `pairs_per_second_at_most` is the bound that the arithmetic of the
    devices sets.
    """
    kind = topology.partition(":")[0]
    peak = DESCRIBED[kind].tflops if kind in DESCRIBED else None
    pair_flops = sum(count_pair_flops(settings))
    return {
        "topology": topology,
        "devices": mesh.size,
        "fsdp": mesh.shape["fsdp"],
        "batch_size": settings.batch_size,
        "microbatch_size": settings.microbatch_size,
        "remat": needed.remat,
        "peak_bytes": needed.peak,
        "temporary_bytes": needed.temporaries,
        "usable_bytes": needed.capacity,
        "memory_bytes": needed.memory,
        "fits": needed.fits,
        "pair_flops": pair_flops,
        "pairs_per_second_at_most": None if peak is None else peak * 1e12 * mesh.size / pair_flops,
        "collectives": {name: traffic._asdict() for name, traffic in (needed.collectives or {}).items()},
        "compile_seconds": needed.seconds,
        "jax": jax.__version__,
    }


def describe_memory(settings: PretrainSettings, needed: DeviceMemory, mesh: Mesh, *, num_parameters: int) -> list[str]:
    """Return the memory of a device as lines of text."""
    return [
        f"compiled in {needed.seconds:.0f} s",
        "",
        "memory per device",
        f"  parameters    {needed.parameters / GB:8.3f} GB  ({num_parameters:,} in float32, fsdp {mesh.shape['fsdp']})",
        f"  optimizer     {needed.optimizer / GB:8.3f} GB  ({settings.optimizer.name})",
        f"  batch         {needed.batch / GB:8.3f} GB",
        f"  temporaries   {needed.temporaries / GB:8.3f} GB",
        f"  peak          {needed.peak / GB:8.3f} GB"
        + (f"  of {needed.capacity / GB:.1f} GB" if needed.capacity else "")
        + _reserved_share(needed),
        *_uncounted(needed),
    ]


def _reserved_share(needed: DeviceMemory) -> str:
    """Return which part of a GPU's memory a program can use."""
    if needed.memory is None or needed.memory == needed.capacity:
        return ""
    share = needed.capacity / needed.memory
    return f", the {share:.0%} of {needed.memory / GB:.1f} GB that JAX reserves (XLA_PYTHON_CLIENT_MEM_FRACTION)"


def _uncounted(needed: DeviceMemory) -> list[str]:
    """Return what the peak leaves out: cuDNN allocates when a program is loaded on a GPU."""
    if needed.program is None or "__cudnn$fmha" not in needed.program:
        return []
    return ["  not counted: the workspace of cuDNN attention, some GB for large batches"]


def describe_work(settings: PretrainSettings, mesh: Mesh, *, kind: str) -> list[str]:
    """Return the arithmetic of a step as lines of text."""
    flops = count_pair_flops(settings)
    pair = sum(flops)
    step = settings.batch_size * pair
    lines = [
        "",
        "arithmetic, counted from the model",
        f"  per pair      {pair / 1e9:10.1f} GFLOP  (objective {flops.objective / pair:.1%})",
        f"  per step      {step / 1e12:10.1f} TFLOP, {step / mesh.size / 1e12:.2f} per device",
    ]
    if kind in DESCRIBED:
        peak = DESCRIBED[kind].tflops
        limit = peak * 1e12 * mesh.size / pair
        lines.append(f"  at most       {limit:10,.0f} pairs/s, at the devices' peak of {peak} bfloat16 TFLOP/s")
    return lines


def describe_traffic(needed: DeviceMemory) -> list[str]:
    """Return the collectives of a step as lines of text."""
    if needed.collectives is None and needed.fits is not False:
        return ["", "traffic between devices: unknown, because the compiler cannot print this program"]
    if not needed.collectives:
        return []
    return [
        "",
        "traffic between devices per step, for each device",
        *(
            f"  {name:<20}{traffic.count:6,} times {traffic.bytes / GB:10.3f} GB"
            for name, traffic in needed.collectives.items()
        ),
    ]


def describe_verdict(settings: PretrainSettings, needed: DeviceMemory, mesh: Mesh) -> list[str]:
    """Return whether the step fits, and if not, what to change, as lines of text."""
    if needed.fits is None:
        return ["", f"verdict: compiles; a device needs {needed.peak / GB:.2f} GB"]
    share = f"{needed.peak / GB:.2f} of {needed.capacity / GB:.2f} GB per device"
    if needed.fits:
        return ["", f"verdict: fits, {share}"]
    lines = ["", f"verdict: does not fit, {share}. Changes that save memory, the cheapest first:"]
    lines += _larger_reserve(needed)
    state = needed.parameters + needed.optimizer
    if needed.batch > 0.5 * needed.capacity:
        return [
            *lines,
            f"  more devices or a smaller batch: its pixels alone take {needed.batch / GB:.2f} GB per device",
        ]
    if mesh.shape["fsdp"] < mesh.size and state > 0.1 * needed.capacity:
        lines.append(f"  pretrain.mesh.fsdp={mesh.size}: parameters and optimizer take {state / GB:.2f} GB per device")
    if settings.optimizer.name != "adafactor" and needed.optimizer > 0.1 * needed.capacity:
        lines.append("  pretrain.optimizer.name=adafactor: its state takes about a quarter of AdamW's")
    if settings.remat not in ("full", "auto"):
        lines.append("  pretrain.remat=auto: keeps what is expected to fit, and recomputes the rest")
    if needed.remat != "full":
        lines.append("  pretrain.remat=full: the backward pass recomputes each layer")
    microbatch_size = _fitting_microbatch_size(settings, needed, mesh)
    if microbatch_size:
        lines.append(f"  pretrain.microbatch_size={microbatch_size}: the forward pass of the towers runs twice")
    return lines


def _larger_reserve(needed: DeviceMemory) -> list[str]:
    """Return the advice to let JAX reserve more of a GPU's memory, if that suffices."""
    if needed.memory is None or needed.memory == needed.capacity or needed.peak > _MOST_RESERVED * needed.memory:
        return []
    fraction = math.ceil(100 * needed.peak / needed.memory) / 100
    return [f"  XLA_PYTHON_CLIENT_MEM_FRACTION={fraction:.2f}: JAX reserves more of the {needed.memory / GB:.1f} GB"]


def _fitting_microbatch_size(settings: PretrainSettings, needed: DeviceMemory, mesh: Mesh) -> int | None:
    """Return the largest microbatch whose temporaries are expected to fit."""
    room = 0.8 * needed.capacity - needed.parameters - needed.optimizer - needed.batch
    current = settings.microbatch_size or settings.batch_size
    most_rows = current * room / needed.temporaries / mesh.size
    rows = settings.batch_size // mesh.size
    fitting = [size for size in range(1, rows + 1) if rows % size == 0 and size <= most_rows]
    return max(fitting) * mesh.size if fitting else None
