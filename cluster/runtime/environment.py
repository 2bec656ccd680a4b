"""What a process sets up before JAX starts: memory pages, threads, and where compiled programs are kept."""

from __future__ import annotations

import hashlib
import os
import pathlib
import platform
import sys
from collections.abc import MutableMapping
from contextlib import suppress

_CACHE_BYTES = 4_000_000_000  # least recently used programs go first


def use_huge_pages() -> None:
    """Starts this process anew with 2 MiB pages for large arrays, where glibc has them.

    XLA on CPUs allocates and frees its buffers at every step; with 4 KiB pages a third of the time goes into page
    faults (docs/PERFORMANCE.md). The C library reads the setting only at its start.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        with suppress(OSError):  # then it goes on without
            os.execv(sys.executable, sys.orig_argv[:1] + sys.orig_argv[1:])


def set_defaults(environment: MutableMapping[str, str]) -> None:
    """Sets what JAX and others read from the environment, where it is not set already.

    Compiled programs are kept in `~/.cache/context-pretraining` (`JAX_COMPILATION_CACHE_DIR` names another folder,
    `JAX_ENABLE_COMPILATION_CACHE=false` keeps none), so that only the first of equal runs compiles. They are machine
    code, which is run as it is read: none are kept where that folder cannot be this user's alone.
    """
    environment.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that PyTorch is not there
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")  # XLA calls it from threads of its own, which it would wait for
    if "JAX_COMPILATION_CACHE_DIR" not in environment:
        home = pathlib.Path(environment.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        if _make_private(home / "context-pretraining"):
            environment["JAX_COMPILATION_CACHE_DIR"] = str(home / "context-pretraining" / f"compiled-{_processor()}")
            environment.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(_CACHE_BYTES))
            environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def _make_private(folder: pathlib.Path) -> bool:
    """Makes a folder, or one that is there, this user's alone; returns whether that could be done."""
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not hasattr(os, "geteuid") or folder.stat().st_uid == os.geteuid():
            folder.chmod(0o700)
            return True
    return False


def _processor() -> str:
    """Returns a name for this processor: a program for one may use instructions that another lacks."""
    known = [platform.machine()]
    with suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        known += [line for line in lines if line.startswith(("flags", "Features"))][:1]
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:12]
