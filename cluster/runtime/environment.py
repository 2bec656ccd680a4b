"""Environment of a process before JAX starts: memory pages, text encoding, threads, platform, cache of programs."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pathlib
import platform
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from importlib.metadata import entry_points

_CACHE_BYTES = 4_000_000_000  # the least recently used programs are removed first
_GOOGLE = "0x1ae0"  # PCI vendor id of TPUs
_GPU_DEVICES = {"cuda": ("/dev/nvidiactl", "/dev/dxg"), "rocm": ("/dev/kfd",)}  # by JAX's name of the platform


def restart() -> None:
    """Restart this process with the variables that are read only when a process starts, unless they are set already.

    2 MiB pages for large arrays, where glibc supports them: XLA on CPUs allocates and frees its buffers in every step;
    with 4 KiB pages a third of the time is spent on page faults (docs/results/performance.md). UTF-8 for file names and
    text files, where the locale has another encoding: a path may then have any letters.
    """
    added = {}
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        added["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        added["PYTHONUTF8"] = "1"
    if added:
        os.environ |= added
        with suppress(OSError):  # continue without them
            os.execv(sys.executable, sys.orig_argv[:1] + sys.orig_argv[1:])


def choose_platform(environment: MutableMapping[str, str]) -> None:
    """Name the platforms for JAX where libtpu is installed but the host has no TPU.

    JAX would look for one, print errors, and then use what is named here: GPUs that have a plugin, or the CPU.
    """
    if environment.get("JAX_PLATFORMS") or importlib.util.find_spec("libtpu") is None or has_tpu():
        return
    platforms = []
    for plugin in entry_points(group="jax_plugins"):
        platform = next((each for each in _GPU_DEVICES if each in plugin.name), None)
        if platform is None:
            return  # a plugin that JAX itself must find
        if any(pathlib.Path(device).exists() for device in _GPU_DEVICES[platform]):
            platforms.append(platform)
    environment["JAX_PLATFORMS"] = ",".join([*platforms, "cpu"])


def has_tpu() -> bool:
    """Return whether this host has TPUs."""
    vendors = []
    for path in pathlib.Path("/sys/bus/pci/devices").glob("*/vendor"):
        with suppress(OSError):
            vendors.append(path.read_text().strip())
    return _GOOGLE in vendors


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
        home = _cache_home(environment)
        if home is not None and _make_private(home / "context-pretraining"):
            environment["JAX_COMPILATION_CACHE_DIR"] = str(home / "context-pretraining" / f"compiled-{_processor()}")
            environment.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(_CACHE_BYTES))
            environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def _cache_home(environment: MutableMapping[str, str]) -> pathlib.Path | None:
    """Return the user's cache folder, or None if the user has no home; the XDG standard ignores relative paths."""
    given = pathlib.Path(environment.get("XDG_CACHE_HOME") or "")
    with suppress(RuntimeError):  # no HOME, and the user id is unknown, as in some containers
        return given if given.is_absolute() else pathlib.Path.home() / ".cache"
    return None


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
