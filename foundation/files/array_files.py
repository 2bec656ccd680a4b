"""Arrays in `.npy` files that end with their checksum; `numpy.load` ignores it."""

from __future__ import annotations

import logging
import os
import pathlib
import zlib

import numpy as np

from foundation.error_text import one_line
from foundation.files.atomic import atomic_file

logger = logging.getLogger(__name__)

_MARK = b"CRC32\0\0\0"


def save_array(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write an `.npy` file with the CRC-32 of its bytes at the end, atomically."""
    with atomic_file(path) as partial:
        with open(partial, "wb") as file:
            np.save(file, array, allow_pickle=False)
        checksum = zlib.crc32(partial.read_bytes())
        with open(partial, "ab") as file:
            file.write(_MARK + checksum.to_bytes(8, "little"))


def load_array(path: str | os.PathLike, *, advice: str = "") -> np.ndarray | None:
    """Return the array of a file, or None if it is missing or damaged, which is logged; nothing is unpickled.

    A file without a checksum, as `numpy.save` and earlier versions wrote it, is read unchecked. `advice` is a sentence
    for the log.
    """
    path = pathlib.Path(path)
    try:
        with open(path, "rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
            end = file.tell()
            trailer = file.read(32)
            file.seek(0)
            if not trailer or trailer == _MARK + zlib.crc32(file.read(end)).to_bytes(8, "little"):
                return array
    except FileNotFoundError:
        return None
    except Exception as error:  # damaged headers raise many kinds of errors
        problem = one_line(error)
    else:
        problem = "it does not have its checksum"
    logger.warning(f"{path} is damaged and not used ({problem}){'. ' + advice if advice else ''}")
    return None
