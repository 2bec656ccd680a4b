"""Compiles a run's training step for devices that are not here, and says what it would take of them."""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from models.towers import count_parameters
from pretrain.config.run import PretrainSettings, read_settings
from pretrain.distributed import sharding
from pretrain.monitoring.throughput import count_pair_flops
from pretrain.tools.hlo_collectives import Traffic, count_collectives
from pretrain.train_step import TrainStep, abstract_batch, build_train_step

logger = logging.getLogger(__name__)

GB = 1e9
# High-bandwidth memory of a chip in GiB and its peak bfloat16 TFLOP/s (cloud.google.com/tpu/docs/system-architecture).
CHIPS = {
    "v4": (32, 275),
    "v5e": (16, 197),
    "v5p": (95, 459),
    "v6e": (32, 918),
}
_RAN_OUT = re.compile(r"(?:\(|Used )([\d.]+)([KMGT])\)? (?:exceeds available HBM \(|of )([\d.]+)([KMGT])")


class Compiled(NamedTuple):
    """What a compiled step takes of each device, in bytes.

    `capacity` is the device's memory, None where it is not known; `peak` includes parameters and optimizer state;
    `collectives` is None where the compiler does not tell.
    """

    parameters: int
    optimizer: int
    batch: int
    temporaries: int
    peak: int
    capacity: int | None
    collectives: dict[str, Traffic] | None
    seconds: float

    @property
    def fits(self) -> bool | None:
        """Whether the step fits; None where the device's memory is not known."""
        return None if self.capacity is None else self.peak <= self.capacity


def compile_job(config: Mapping[str, Any], topology: str) -> bool:
    """Compiles the step that the `pretrain` section of a config describes, and says what it takes.

    `topology` is `KIND:SHAPE` of TPU chips, such as `v5e:16x16`, `KIND:SHAPE*N` of N slices, or `local:N` for N fake
    CPU devices. Returns False where the step does not fit the devices.
    """
    settings = read_settings(config)
    kind, devices = describe_devices(topology)
    mesh = sharding.create_mesh(settings.mesh.fsdp, devices)
    training = build_train_step(settings, mesh, model=settings.model(settings.max_vocab_size()))
    logger.info(
        f"compiling a step of {settings.batch_size:,} pairs for {topology}, {mesh.size} devices, jax {jax.__version__}"
    )
    compiled = compile_step(settings, training, mesh, kind)
    logger.info(describe(settings, compiled, mesh, kind, count_parameters(training.abstract_state.parameters)))
    for line in advice(settings, compiled, mesh):
        logger.info(line)
    return compiled.fits is not False


def describe_devices(topology: str) -> tuple[str, list[jax.Device]]:
    """Returns the kind of a described topology's devices, and the devices; raises `ValueError` for an unknown one."""
    kind, _, shape = topology.partition(":")
    if kind == "local" and shape.isdigit() and int(shape) > 0:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", int(shape))
        if len(jax.devices()) != int(shape):
            raise ValueError(f"local:{shape} needs a process of its own; jax has {len(jax.devices())} devices already")
        return kind, jax.devices()
    if kind not in CHIPS or not re.fullmatch(r"\d+(x\d+){1,2}(\*[1-9]\d*)?", shape):
        raise ValueError(
            f"unknown topology {topology!r}; write KIND:SHAPE such as v5e:4x4 or v4:2x2x4 (kinds: {', '.join(CHIPS)}), "
            "KIND:SHAPE*N for N slices, or local:N for N CPU devices"
        )
    slice_, _, slices = topology.partition("*")
    jax.config.update("jax_platforms", "cpu")  # no TPU is looked for: there is none
    jax.config.update("jax_enable_compilation_cache", False)  # a kept program could not be opened without one either
    quiet = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": f"{kind}-1"}
    quiet |= {"TPU_MIN_LOG_LEVEL": "3", "TPU_STDERR_LOG_LEVEL": "3", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    try:
        several = {"num_slices": int(slices)} if slices else {}
        return kind, list(topologies.get_topology_desc(platform="tpu", topology_name=slice_, **several).devices)
    except Exception as error:
        if "libtpu" in str(error).lower() or isinstance(error, ImportError):
            raise ValueError(f"compiling for TPUs needs libtpu; `pip install libtpu` ({error})") from error
        raise ValueError(f"libtpu knows no topology {topology!r}: {error}") from error


def compile_step(settings: PretrainSettings, training: TrainStep, mesh: Mesh, kind: str) -> Compiled:
    """Compiles a run's step for `mesh` and returns what it takes of each device."""
    state = training.abstract_state
    inputs = abstract_batch(settings, mesh)
    held = [_bytes_per_device(tree) for tree in (state.parameters, state.optimizer_state, inputs)]
    capacity = CHIPS[kind][0] << 30 if kind in CHIPS else None
    began = time.monotonic()
    try:
        compiled = training.step.lower(state, inputs).compile()
    except jax.errors.JaxRuntimeError as error:
        ran_out = _RAN_OUT.search(str(error))
        if not ran_out:
            refusal = str(error).strip().partition("\n")[0]
            raise ValueError(f"the compiler refuses this step: {refusal}") from error
        used, unit, has, has_unit = ran_out.groups()
        temporaries, capacity = (
            round(float(size) * 1024 ** "_KMGT".index(unit)) for size, unit in ((used, unit), (has, has_unit))
        )
        return Compiled(*held, temporaries, sum(held) + temporaries, capacity, None, time.monotonic() - began)
    memory = compiled.memory_analysis()
    around = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak = max(around + memory.temp_size_in_bytes, getattr(memory, "peak_memory_in_bytes", 0))
    seconds = time.monotonic() - began
    try:
        traffic = count_collectives(compiled.as_text())
    except jax.errors.JaxRuntimeError:  # some of libtpu's programs for v5p cannot be printed
        traffic = None
    return Compiled(*held, memory.temp_size_in_bytes, peak, capacity, traffic, seconds)


def describe(settings: PretrainSettings, compiled: Compiled, mesh: Mesh, kind: str, parameters: int) -> str:
    """Returns the page that the job prints."""
    towers, objective = count_pair_flops(settings)
    step = settings.batch_size * (towers + objective)
    lines = [
        f"compiled in {compiled.seconds:.0f} s",
        "",
        "memory of a device",
        f"  parameters    {compiled.parameters / GB:8.3f} GB  ({parameters:,} in float32, fsdp {mesh.shape['fsdp']})",
        f"  optimizer     {compiled.optimizer / GB:8.3f} GB  ({settings.optimizer.name})",
        f"  batch         {compiled.batch / GB:8.3f} GB",
        f"  temporaries   {compiled.temporaries / GB:8.3f} GB",
        f"  peak          {compiled.peak / GB:8.3f} GB"
        + (f"  of {compiled.capacity / GB:.1f} GB" if compiled.capacity else ""),
        "",
        "work, counted from the model",
        f"  a pair        {(towers + objective) / 1e9:10.1f} GFLOP  (objective {objective / (towers + objective):.1%})",
        f"  a step        {step / 1e12:10.1f} TFLOP, {step / mesh.size / 1e12:.2f} on each device",
    ]
    if kind in CHIPS:
        limit = CHIPS[kind][1] * 1e12 * mesh.size / (towers + objective)
        lines.append(f"  at most       {limit:10,.0f} pairs/s at the chips' peak of {CHIPS[kind][1]} bfloat16 TFLOP/s")
    if compiled.collectives is None and compiled.fits is not False:
        lines += ["", "sent between devices: unknown, this compiler cannot print its program"]
    elif compiled.collectives:
        lines += ["", "sent between devices in a step, for each device"]
        lines += [
            f"  {name:<20}{traffic.count:6,} times {traffic.bytes / GB:10.3f} GB"
            for name, traffic in compiled.collectives.items()
        ]
    return "\n".join(lines)


def advice(settings: PretrainSettings, compiled: Compiled, mesh: Mesh) -> list[str]:
    """Returns the verdict, and what to change where the step does not fit."""
    if compiled.fits is None:
        return ["", f"verdict: compiles; a device needs {compiled.peak / GB:.2f} GB"]
    share = f"{compiled.peak / GB:.2f} of {compiled.capacity / GB:.2f} GB on each device"
    if compiled.fits:
        return ["", f"verdict: fits, {share}"]
    lines = ["", f"verdict: does not fit, {share}; what would make it fit, in the order of what it costs:"]
    state = compiled.parameters + compiled.optimizer
    room = 0.8 * compiled.capacity - state - compiled.batch
    if compiled.batch > 0.5 * compiled.capacity:
        return [
            *lines,
            f"  more devices or a smaller batch: its pixels alone take {compiled.batch / GB:.2f} GB on each device",
        ]
    if mesh.shape["fsdp"] < mesh.size and state > 0.1 * compiled.capacity:
        lines.append(
            f"  pretrain.mesh.fsdp={mesh.size}: parameters and optimizer take {state / GB:.2f} GB on each device"
        )
    if settings.optimizer.name != "adafactor" and compiled.optimizer > 0.1 * compiled.capacity:
        lines.append("  pretrain.optimizer.name=adafactor: its state takes about a quarter of AdamW's")
    if settings.remat != "full":
        lines.append("  pretrain.remat=full: the backward pass computes each layer again")
    now = settings.microbatch_size or settings.batch_size
    wanted = now * room / compiled.temporaries / mesh.size
    rows = settings.batch_size // mesh.size
    fitting = [size for size in range(1, rows + 1) if rows % size == 0 and size <= wanted]
    if fitting:
        lines.append(f"  pretrain.microbatch_size={max(fitting) * mesh.size}: the towers' forward pass runs twice")
    return lines


def _bytes_per_device(tree: Any) -> int:
    return sum(leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(tree))
