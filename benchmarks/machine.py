"""The machine of a benchmark: its name, its measured peak, and how busy other processes keep it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Callable
from typing import Any

HUGE_PAGES = "glibc.malloc.hugetlb=1"  # the GLIBC_TUNABLES with which launch.py restarts itself


def describe_machine(platform_name: str = "cpu") -> str:
    """Return the processor and its number of cores, preceded by the graphics cards for the platform "gpu"."""
    cpu = f"{cpu_model()}, {os.cpu_count()} cores"
    if platform_name != "gpu":
        return cpu
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        cards = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().splitlines()
        return f"{len(cards)} × {cards[0]}; {cpu}"
    return cpu


def cpu_model() -> str:
    """Return the name of the processor."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def busy_seconds() -> float:
    """Return the seconds of work of all cores since the machine started, over all processes; 0 if unknown."""
    with contextlib.suppress(OSError):
        user, nice, system, _, _, *interrupts = pathlib.Path("/proc/stat").read_text(encoding="utf-8").split()[1:9]
        return sum(map(int, (user, nice, system, *interrupts))) / os.sysconf("SC_CLK_TCK")
    return 0.0


def page_policy() -> str:
    """Return the kernel's setting for huge pages: always, madvise (as GLIBC_TUNABLES requests) or never."""
    with contextlib.suppress(OSError, IndexError):
        choices = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(encoding="utf-8")
        return choices.split("[")[1].split("]")[0]
    return "unknown"


def seconds_of(function: Callable[[], Any], repeats: int) -> list[float]:
    """Return the seconds of each of `repeats` calls, one after another."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return seconds


def measure_peak(product: Callable[[], Any], size: int, *, repeats: int = 10) -> float:
    """Return the highest FLOP/s of repeated products of two `[size, size]` matrices."""
    product()
    return 2 * size**3 / min(seconds_of(product, repeats))
