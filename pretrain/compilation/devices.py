"""Devices to compile for that need not be attached: TPU chips, NVIDIA GPUs, or simulated CPU devices."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from pretrain.compilation import nvidia_gpus
from pretrain.monitoring.device_peaks import GPUS, TPU_CHIPS

_DEFAULT_MEMORY_FRACTION = 0.75  # docs.jax.dev/en/latest/gpu_memory_allocation.html


class DescribedDevices(NamedTuple):
    """The devices of a topology.

    kind: such as `v5e`, `h100` or `local`.
    memory: of a device, in bytes; None if unknown.
    memory_fraction: the part of it that JAX reserves, which is all that a program can use.
    compiler_options: that a step must be compiled with.
    """

    kind: str
    devices: list[jax.Device]
    memory: int | None = None
    memory_fraction: float = 1.0
    compiler_options: Mapping[str, Any] = {}


def describe_devices(topology: str) -> DescribedDevices:
    """Return the devices of a topology; raises `ValueError` for an unknown one, or if a package is missing."""
    kind, _, shape = topology.partition(":")
    if kind == "local" and re.fullmatch(r"[1-9]\d*", shape):
        return DescribedDevices(kind, _fake_cpu_devices(int(shape)))
    if kind in TPU_CHIPS and re.fullmatch(r"\d+(x\d+){1,2}(\*[1-9]\d*)?", shape):
        memory = round(TPU_CHIPS[kind].memory_gib * 2**30)
        return DescribedDevices(kind, _tpu_devices(kind, topology), memory)
    if kind in GPUS and (found := re.fullmatch(r"(?:([1-9]\d*)x)?([1-9]\d*)", shape)):
        fraction = _memory_fraction()
        devices = nvidia_gpus.described_gpus(kind, hosts=int(found[1] or 1), per_host=int(found[2]))
        return DescribedDevices(
            kind, devices, nvidia_gpus.memory_bytes(kind), fraction, compiler_options=nvidia_gpus.COMPILER_OPTIONS
        )
    raise ValueError(
        f"unknown topology {topology!r}. For TPUs use KIND:SHAPE such as v5e:4x4 or v4:2x2x4, or KIND:SHAPE*N for N "
        f"slices, with one of {', '.join(TPU_CHIPS)}. For GPUs use KIND:N or KIND:HOSTSxN such as h100:8 or h100:2x8, "
        f"with one of {', '.join(sorted(GPUS))}. Use local:N for N CPU devices."
    )


def _memory_fraction() -> float:
    """Return the part of a GPU's memory that JAX reserves."""
    name = "XLA_PYTHON_CLIENT_MEM_FRACTION"
    given = os.environ.get(name) or str(_DEFAULT_MEMORY_FRACTION)
    try:
        fraction = float(given)
    except ValueError:
        fraction = 0.0
    if not 0 < fraction <= 1:
        raise ValueError(f"{name} is {given!r}. Use a number above 0 and at most 1, such as 0.9.")
    return fraction


def _fake_cpu_devices(count: int) -> list[jax.Device]:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    if len(jax.devices()) != count:
        raise ValueError(f"local:{count} needs a new process: jax is already using {len(jax.devices())} devices")
    return jax.devices()


def _tpu_devices(kind: str, topology: str) -> list[jax.Device]:
    slice_, _, slices = topology.partition("*")
    jax.config.update("jax_platforms", "cpu")  # otherwise JAX looks for a TPU
    jax.config.update("jax_enable_compilation_cache", False)  # a cached TPU program cannot be loaded without a TPU
    quiet = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": f"{kind}-1"}
    quiet |= {"TPU_MIN_LOG_LEVEL": "3", "TPU_STDERR_LOG_LEVEL": "3", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    try:
        options = {"num_slices": int(slices)} if slices else {}
        return list(topologies.get_topology_desc(platform="tpu", topology_name=slice_, **options).devices)
    except Exception as error:
        if "libtpu" in str(error).lower() or isinstance(error, ImportError):
            raise ValueError(f"compiling for TPUs needs libtpu. Run `pip install libtpu` ({error}).") from error
        raise ValueError(f"libtpu has no topology {topology!r}: {error}") from error
