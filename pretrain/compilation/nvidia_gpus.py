"""Descriptions of NVIDIA GPUs that XLA compiles for without a GPU.

A file of `gpu_targets/` has the numbers of a card and their sources, in the text format of XLA's `GpuDeviceInfoProto`
(openxla/xla: xla/stream_executor/device_description.proto). What all cards have in common is here; the memory is that
of `device_peaks.py`.
"""

from __future__ import annotations

import pathlib
import re
import sys
from importlib.metadata import PackageNotFoundError, version

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from foundation.console import hidden_stderr
from foundation.error_text import first_line
from pretrain.monitoring.device_peaks import GPUS

_TARGETS = pathlib.Path(__file__).parent / "gpu_targets"
_NVCC = "nvidia-cuda-nvcc-cu12"
_CUDNN = (9, 10, 2)  # version on the described machine: the oldest without known errors that JAX 0.10 and 0.11 accept
# CUDA C++ Programming Guide, technical specifications: equal from compute capability 8.0 to 10.0.
_LIMITS = """
threads_per_warp: 32
threads_per_block_limit: 1024
thread_dim_limit_x: 1024
thread_dim_limit_y: 1024
thread_dim_limit_z: 64
block_dim_limit_x: 2147483647
block_dim_limit_y: 65535
block_dim_limit_z: 65535
shared_memory_per_block: 49152
registers_per_core_limit: 65536
registers_per_block_limit: 65536
driver_version: "13.0.0"
runtime_version: "12.8.0"
compile_time_toolkit_version: "12.8.0"
"""
# XLA chooses the tiles of a Triton matrix product by running candidates. JAX 0.10 fails without a GPU to run them on
# ("Couldn't find output tile sizes"); without Triton, these products are cuBLAS's, as most are on a GPU.
COMPILER_OPTIONS = {"xla_gpu_enable_triton_gemm": False}


def memory_bytes(kind: str) -> int:
    """Return the memory of a card in bytes."""
    return round(GPUS[kind].memory_gib * 2**30)


def l2_cache_bytes(kind: str) -> int:
    """Return the L2 cache of a card in bytes."""
    return _number(kind, "l2_cache_size")


def memory_bandwidth(kind: str) -> int:
    """Return the memory bandwidth of a card in bytes per second."""
    return _number(kind, "memory_bandwidth")


def _number(kind: str, field: str) -> int:
    return int(re.search(rf"^{field}: (\d+)$", _card(kind), re.MULTILINE)[1])


def _card(kind: str) -> str:
    return (_TARGETS / f"{kind}.txtpb").read_text(encoding="utf-8")


def target_config(kind: str) -> str:
    """Return the description of a card as XLA reads it: a `GpuTargetConfigProto` in text format."""
    major, minor, patch = _CUDNN
    return (
        f"gpu_device_info {{\n{_card(kind)}{_LIMITS}device_memory_size: {memory_bytes(kind)}\n"
        f'dnn_version: "{major}.{minor}.{patch}"\n}}\n'
        f'platform_name: "CUDA"\ndnn_version_info {{ major: {major} minor: {minor} patch: {patch} }}\n'
        f'device_description_str: "{GPUS[kind].kind}"\n'
    )


def described_gpus(kind: str, *, hosts: int, per_host: int) -> list[jax.Device]:
    """Return GPUs that programs can be compiled for, but not run on.

    The default platform of the process becomes the CPU. Raises `ValueError` if a package is not installed, or if JAX's
    CUDA plugin does not fit jaxlib.
    """
    _check_plugin()
    jax.config.update("jax_platforms", "cpu")  # otherwise JAX looks for a GPU
    jax.config.update("jax_enable_compilation_cache", False)  # a cached GPU program cannot be loaded without a GPU
    from jax.experimental import topologies

    with hidden_stderr():  # the plugin prints that it found no CUDA driver
        jax.devices()  # loads the plugins
        try:
            described = topologies.get_topology_desc(
                platform="cuda",
                topology=f"1x{hosts}x{per_host}",  # NVLink domains × hosts × GPUs
                target_config=target_config(kind),
            )
        except Exception as error:
            raise ValueError(f"JAX's CUDA plugin cannot describe {kind}:{hosts}x{per_host}: {error}") from error
        check_assembler(described.devices[0])
    _assume_cudnn()
    return list(described.devices)


def _check_plugin() -> None:
    """Raise `ValueError` unless JAX's CUDA plugin of the version of jaxlib is installed."""
    jaxlib = version("jaxlib")
    install = f'Run `{sys.executable} -m pip install "jax[cuda12-local]=={jax.__version__}" {_NVCC}`.'
    for cuda in ("cuda13", "cuda12"):
        names = (f"jax-{cuda}-plugin", f"jax-{cuda}-pjrt")
        found = {name: _installed_version(name) for name in names}
        if not any(found.values()):
            continue
        for name, installed in found.items():
            if installed is None:
                raise ValueError(f"compiling for NVIDIA GPUs needs {name}. {install}")
            if installed != jaxlib:
                raise ValueError(f"{name} {installed} does not fit jaxlib {jaxlib}. {install}")
        return
    raise ValueError(f"compiling for NVIDIA GPUs needs JAX's CUDA plugin. {install}")


def check_assembler(device: jax.Device) -> None:
    """Raise `ValueError` if a small program cannot be compiled: a sine needs libdevice, and every program ptxas."""
    argument = jax.ShapeDtypeStruct((8,), jnp.float32, sharding=SingleDeviceSharding(device))
    try:
        jax.jit(jnp.sin).lower(argument).compile()
    except jax.errors.JaxRuntimeError as error:
        reason = first_line(error)
        if "libdevice" in reason or "ptxas" in reason:
            raise ValueError(
                f"compiling for NVIDIA GPUs needs ptxas and libdevice, of CUDA's compiler. Run `{sys.executable} -m "
                f"pip install {_NVCC}` ({reason})."
            ) from error
        raise ValueError(f"{device.device_kind}: a small program cannot be compiled: {reason}") from error


def _installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _assume_cudnn() -> None:
    """Let JAX trace cuDNN attention for the cuDNN of the described machine, which need not be installed here.

    JAX asks the installed library for its version, and for nothing else while it compiles: its kernels are chosen when
    a program is loaded on a GPU. cuDNN takes 2.2 GB on disk, with the cuBLAS and NVRTC that it requires.
    """
    from jax._src.cudnn import fused_attention_stablehlo

    major, minor, patch = _CUDNN
    fused_attention_stablehlo.check_cudnn_version = lambda: 10_000 * major + 100 * minor + patch
