"""One run owns a workdir at a time."""

from __future__ import annotations

import datetime
import errno
import fcntl
import logging
import os
import pathlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

LOCK_FILE = "run.lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # as of Lustre without flock, NFS without lockd


@contextmanager
def owned(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other runs out of `workdir`, also those of other hosts, until it is left or this process ends.

    Raises `ValueError`, naming the process, where another run has it. The lock is the file system's: it goes with its
    process, however that ends. Where the file system has no locks, that is said, and nothing keeps others out.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / LOCK_FILE, "a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            raise ValueError(
                f"{workdir} belongs to a run that is going on ({file.read().strip() or 'it has not said which'}); end "
                "that one first, or name another --workdir"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            logger.info(f"{workdir} is on a file system without locks; see to it that no second run is started there")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {datetime.datetime.now():%Y-%m-%d %H:%M}\n")
        file.flush()
        yield
