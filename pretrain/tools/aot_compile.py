"""Ahead-of-time compilation of a training step for described devices, and a report of what it needs."""

from __future__ import annotations

import logging
import math
import pathlib
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from foundation.console import hidden_stderr
from models.towers import count_parameters
from pretrain.config.run import PretrainSettings, read_settings
from pretrain.distributed import sharding
from pretrain.monitoring.device_peaks import DESCRIBED, GPUS
from pretrain.monitoring.throughput import count_pair_flops
from pretrain.tools.described_devices import DescribedDevices, describe_devices
from pretrain.tools.gpu_program import ProgramCheck, check_program
from pretrain.tools.hlo_collectives import Traffic, count_collectives
from pretrain.train_step import TrainStep, abstract_batch, build_train_step

logger = logging.getLogger(__name__)

GB = 1e9
_MOST_RESERVED = 0.92  # of a GPU: the rest is for CUDA, cuDNN and NCCL
_OUT_OF_MEMORY = re.compile(r"(?:\(|Used )([\d.]+)([KMGT])\)? (?:exceeds available HBM \(|of )([\d.]+)([KMGT])")


class DeviceMemory(NamedTuple):
    """Memory and traffic of a compiled step per device, in bytes.

    peak: includes parameters and optimizer state.
    capacity: memory of the device that a program can use; None if unknown.
    collectives: None if the compiler cannot print its program.
    seconds: compilation time.
    memory: all memory of the device; None if unknown.
    program: the compiled program, as HLO text; None if the compiler cannot print it.
    """

    parameters: int
    optimizer: int
    batch: int
    temporaries: int
    peak: int
    capacity: int | None
    collectives: dict[str, Traffic] | None
    seconds: float
    memory: int | None = None
    program: str | None = None

    @property
    def fits(self) -> bool | None:
        """Whether the step fits; None if the memory of the device is unknown."""
        return None if self.capacity is None else self.peak <= self.capacity


def compile_job(config: Mapping[str, Any], topology: str, *, hlo: pathlib.Path | None = None) -> bool:
    """Compile the step that the `pretrain` section of a config describes, and log what it needs.

    `topology` is `KIND:SHAPE` of TPU chips, such as `v5e:16x16`, `KIND:SHAPE*N` for N slices, `KIND:N` or
    `KIND:HOSTSxN` of GPUs, such as `h100:2x8`, or `local:N` for N fake CPU devices. The compiled program is written to
    `hlo`. Returns False if the step does not fit the devices, or if the program of a GPU has faults.
    """
    settings = read_settings(config)
    described = describe_devices(topology)
    mesh = sharding.create_mesh(settings.mesh.fsdp, described.devices)
    training = build_train_step(
        settings, mesh, model=settings.model(settings.max_vocab_size()), memory=_usable_memory(described)
    )
    logger.info(
        f"compiling a step of {settings.batch_size:,} pairs for {topology}, {mesh.size} devices, jax {jax.__version__}"
    )
    needed = compile_step(settings, training, mesh, described)
    if hlo is not None:
        _write_program(needed, hlo)
    num_parameters = count_parameters(training.abstract_state.parameters)
    checked = ProgramCheck([], [])
    if described.kind in GPUS and needed.program is not None:
        checked = check_program(settings, needed.program, mesh, kind=described.kind)
    for lines in (
        describe_memory(settings, needed, mesh, num_parameters=num_parameters),
        describe_work(settings, mesh, kind=described.kind),
        describe_traffic(needed),
        checked.lines,
        describe_verdict(settings, needed, mesh),
    ):
        for line in lines:
            logger.info(line)
    if checked.faults:
        logger.info("verdict: the program does not do what the settings ask for; see its faults above")
    return needed.fits is not False and not checked.faults


def compile_step(
    settings: PretrainSettings, training: TrainStep, mesh: Mesh, described: DescribedDevices
) -> DeviceMemory:
    """Compile the step of a run for `mesh`, and return what it needs per device."""
    state = training.abstract_state
    inputs = abstract_batch(settings, mesh)
    held = [_bytes_per_device(tree) for tree in (state.parameters, state.optimizer_state, inputs)]
    memory, capacity = described.memory, _usable_memory(described)
    start = time.monotonic()
    try:
        with hidden_stderr():
            compiled = training.step.lower(state, inputs).compile(
                compiler_options=dict(described.compiler_options) or None
            )
    except jax.errors.JaxRuntimeError as error:
        found = _OUT_OF_MEMORY.search(str(error))
        if not found:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"the step cannot be compiled: {reason}") from error
        used, used_unit, limit, limit_unit = found.groups()
        temporaries, capacity = _to_bytes(used, used_unit), _to_bytes(limit, limit_unit)
        return DeviceMemory(*held, temporaries, sum(held) + temporaries, capacity, None, time.monotonic() - start)
    analysis = compiled.memory_analysis()
    outside = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    peak_anywhere = getattr(analysis, "peak_memory_in_bytes", 0)  # with what is offloaded to the host
    peak = max(outside + analysis.temp_size_in_bytes, peak_anywhere - analysis.host_temp_size_in_bytes)
    seconds = time.monotonic() - start
    try:
        program = compiled.as_text()
    except jax.errors.JaxRuntimeError:  # libtpu cannot print some programs for v5p
        program = None
    return DeviceMemory(
        *held,
        temporaries=analysis.temp_size_in_bytes,
        peak=peak,
        capacity=capacity,
        collectives=None if program is None else count_collectives(program),
        seconds=seconds,
        memory=memory,
        program=program,
    )


def _usable_memory(described: DescribedDevices) -> int | None:
    """Return the bytes that a program can use of a device, or None if they are unknown."""
    return None if described.memory is None else round(described.memory * described.memory_fraction)


def _write_program(needed: DeviceMemory, path: pathlib.Path) -> None:
    if needed.program is None:
        raise ValueError(f"{path} cannot be written: the compiler cannot print this program")
    path.write_text(needed.program, encoding="utf-8")
    logger.info(f"wrote the compiled program to {path}")


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
    if settings.remat != "full":
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


def _to_bytes(size: str, unit: str) -> int:
    return round(float(size) * 1024 ** "_KMGT".index(unit))


def _bytes_per_device(tree: Any) -> int:
    return sum(leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(tree))
