"""Ahead-of-time compilation of a training step for described devices."""

from __future__ import annotations

import re
import time
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from foundation.console import hidden_stderr
from foundation.error_text import first_line
from pretrain.compilation.devices import DescribedDevices
from pretrain.compilation.hlo.collectives import Traffic, count_collectives
from pretrain.compilation.hlo.program import parse_program
from pretrain.config.run import PretrainSettings
from pretrain.distributed.sharding import bytes_per_device
from pretrain.train_step import TrainStep, abstract_batch

_OUT_OF_MEMORY = re.compile(r"(?:\(|Used )([\d.]+)([KMGT])\)? (?:exceeds available HBM \(|of )([\d.]+)([KMGT])")


class DeviceMemory(NamedTuple):
    """Memory and traffic of a compiled step per device, in bytes.

    peak: includes parameters and optimizer state.
    capacity: memory of the device that a program can use; None if unknown.
    collectives: None if the compiler cannot print its program.
    seconds: compilation time.
    remat: the rematerialization policy of the step, the chosen one for "auto".
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
    remat: str
    memory: int | None = None
    program: str | None = None

    @property
    def fits(self) -> bool | None:
        """Whether the step fits; None if the memory of the device is unknown."""
        return None if self.capacity is None else self.peak <= self.capacity


def compile_step(
    settings: PretrainSettings, training: TrainStep, mesh: Mesh, described: DescribedDevices
) -> DeviceMemory:
    """Compile the step of a run for `mesh`, and return what it needs per device."""
    state = training.abstract_state
    inputs = abstract_batch(settings, mesh)
    held = [bytes_per_device(tree) for tree in (state.parameters, state.optimizer_state, inputs)]
    memory, capacity = described.memory, usable_memory(described)
    start = time.monotonic()
    try:
        with hidden_stderr():
            compiled = training.step.lower(state, inputs).compile(
                compiler_options=dict(described.compiler_options) or None
            )
    except jax.errors.JaxRuntimeError as error:
        found = _OUT_OF_MEMORY.search(str(error))
        if not found:
            raise ValueError(f"the step cannot be compiled: {first_line(error)}") from error
        used, used_unit, limit, limit_unit = found.groups()
        temporaries, capacity = _to_bytes(used, used_unit), _to_bytes(limit, limit_unit)
        return DeviceMemory(
            *held,
            temporaries=temporaries,
            peak=sum(held) + temporaries,
            capacity=capacity,
            collectives=None,
            seconds=time.monotonic() - start,
            remat=training.remat,
        )
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
        collectives=None if program is None else count_collectives(parse_program(program)),
        seconds=seconds,
        remat=training.remat,
        memory=memory,
        program=program,
    )


def usable_memory(described: DescribedDevices) -> int | None:
    """Return the bytes that a program can use of a device, or None if they are unknown."""
    return None if described.memory is None else round(described.memory * described.memory_fraction)


def _to_bytes(size: str, unit: str) -> int:
    return round(float(size) * 1024 ** "_KMGT".index(unit))
