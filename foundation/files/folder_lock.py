"""A lock that keeps a folder to one process at a time."""

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

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # for example Lustre without flock, or NFS without lockd


@contextmanager
def lock_folder(folder: str | os.PathLike, file: str, *, job: str, option: str, wait: bool = False) -> Iterator[None]:
    """Keep other processes, also on other hosts, out of `folder` until the context or the process ends.

    `file` is the name of the lock file. `job` (such as "run") and `option`, which names the folder, are for messages.
    The folder is created.

    The file system holds the lock and releases it however the process ends. Raises `ValueError`, naming the process,
    if another one has the folder; with `wait`, logs it and waits until the folder is free. A file system without locks
    is logged, and the folder is not protected.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file
    lock = FileLock(path, timeout=0, fallback_to_soft=False)  # a soft lock would outlive a killed process
    try:
        try:
            lock.acquire()
        except Timeout:
            if not wait:
                raise
            logger.info(f"waiting for another {job} in {folder} ({path.read_text(encoding='utf-8').strip()})")
            lock.acquire(timeout=-1)
    except Timeout:
        holder = path.read_text(encoding="utf-8").strip()
        raise ValueError(
            f"{folder} is in use by another {job} ({holder or 'which has not written its name yet'}). Stop that "
            f"{job}, or use another {option}."
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning(f"{folder} is on a file system without locks. Make sure that no second {job} uses it.")
    try:
        path.write_text(
            f"process {os.getpid()} on {socket.gethostname()} since {datetime.datetime.now():%Y-%m-%d %H:%M}\n",
            encoding="utf-8",
        )
        yield
    finally:
        lock.release()
