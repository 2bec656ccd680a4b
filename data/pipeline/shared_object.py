"""An object that worker processes read from a file."""

from __future__ import annotations

import functools
import os
import pathlib
import tempfile
from multiprocessing.reduction import ForkingPickler
from typing import Any


class SharedObject:
    """A copy of an object in a temporary file; only the path is sent to other processes.

    `multiprocessing` sends its arguments through a pipe that the parent itself keeps open until the child has read them
    all. If they exceed the 64 KiB of a pipe and the child ends early (out of memory, an interrupt, an error during an
    import), the parent would wait for ever.
    """

    def __init__(self, value: Any):
        descriptor, path = tempfile.mkstemp(prefix="data-worker-", suffix=".pickle")
        with os.fdopen(descriptor, "wb") as file:
            file.write(ForkingPickler.dumps(value))
        self._path = pathlib.Path(path)

    def get(self) -> Any:
        """Return the object, which is read once per process."""
        return _read(self._path)

    def remove(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)


@functools.lru_cache(maxsize=1)
def _read(path: pathlib.Path) -> Any:
    # The parent process wrote the file, which only this user can access.
    return ForkingPickler.loads(path.read_bytes())
