"""Environment of a process before JAX starts: memory pages, threads, and the cache of compiled programs."""

from __future__ import annotations

import hashlib
import os
import pathlib
import platform
import sys
from collections.abc import MutableMapping
from contextlib import suppress

_CACHE_BYTES = 4_000_000_000  # the least recently used programs are removed first


def use_huge_pages() -> None:
    """Restart this process with 2 MiB pages for large arrays, where glibc supports them.

    XLA on CPUs allocates and frees its buffers in every step; with 4 KiB pages a third of the time is spent on page
    faults (docs/PERFORMANCE.md). The C library reads the setting only when a process starts.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        with suppress(OSError):  # continue without them
            os.execv(sys.executable, sys.orig_argv[:1] + sys.orig_argv[1:])


def set_defaults(environment: MutableMapping[str, str]) -> None:
    """Set environment variables that JAX and other libraries read, unless they are set already.

    Compiled programs are cached in `~/.cache/context-pretraining`, so that only the first of several equal runs
    compiles. `JAX_COMPILATION_CACHE_DIR` sets another folder, `JAX_ENABLE_COMPILATION_CACHE=false` disables the cache.
    Compiled programs are machine code, which runs without checks: the cache is disabled if the folder cannot be made
    private to this user.
    """
    environment.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # "PyTorch is not installed"
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")  # XLA calls it from its own threads
    if "JAX_COMPILATION_CACHE_DIR" not in environment:
        home = pathlib.Path(environment.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        if _make_private(home / "context-pretraining"):
            environment["JAX_COMPILATION_CACHE_DIR"] = str(home / "context-pretraining" / f"compiled-{_processor()}")
            environment.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(_CACHE_BYTES))
            environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def _make_private(folder: pathlib.Path) -> bool:
    """Create a folder, or take an existing one, that only this user can access; return whether that succeeded."""
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not hasattr(os, "geteuid") or folder.stat().st_uid == os.geteuid():
            folder.chmod(0o700)
            return True
    return False


def _processor() -> str:
    """Return a hash of the processor's features: a program may use instructions that another processor lacks."""
    features = [platform.machine()]
    with suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        features += [line for line in lines if line.startswith(("flags", "Features"))][:1]
    return hashlib.sha256("\n".join(features).encode()).hexdigest()[:12]
