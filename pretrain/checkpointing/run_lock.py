"""A lock that keeps a workdir to one run at a time."""

from __future__ import annotations

import datetime
import errno
import logging
import os
import pathlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

LOCK_FILE = "run.lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # for example Lustre without flock, or NFS without lockd


@contextmanager
def lock_workdir(workdir: pathlib.Path) -> Iterator[None]:
    """Keep other runs, also those on other hosts, out of `workdir` until the context or the process ends.

    The file system holds the lock and releases it however the process ends. Raises `ValueError`, naming the process,
    if another run has the workdir. A file system without locks is logged, and the workdir is not protected.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / LOCK_FILE
    lock = FileLock(path, timeout=0, fallback_to_soft=False)  # a soft lock would outlive a killed process
    try:
        lock.acquire()
    except Timeout:
        holder = path.read_text(encoding="utf-8").strip()
        raise ValueError(
            f"{workdir} is in use by another run ({holder or 'which has not written its name yet'}). Stop that run, or "
            "use another --workdir."
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning(f"{workdir} is on a file system without locks. Make sure that no second run uses it.")
    try:
        path.write_text(
            f"process {os.getpid()} on {socket.gethostname()} since {datetime.datetime.now():%Y-%m-%d %H:%M}\n",
            encoding="utf-8",
        )
        yield
    finally:
        lock.release()
