"""Panics of extension modules written in Rust, such as tokenizers, as ordinary errors."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

from foundation.error_text import first_line


def is_panic(error: BaseException) -> bool:
    """Return whether an error is a panic, which derives from `BaseException` alone."""
    return type(error).__name__ == "PanicException"


@contextlib.contextmanager
def panics_as_errors() -> Iterator[None]:
    """Raise a panic as `RuntimeError`, without the stack that Rust prints to standard error.

    Whatever else is printed there in the meantime appears at the end.
    """
    with _held_stderr() as held:
        try:
            yield
        except BaseException as error:
            if not is_panic(error):
                raise
            held.clear()
            raise RuntimeError(f"tokenizers panicked: {first_line(error)}") from None


@contextlib.contextmanager
def _held_stderr() -> Iterator[_HeldOutput]:
    """Collect what is written to file descriptor 2, and write it there at the end."""
    with tempfile.TemporaryFile() as file:
        held = _HeldOutput(file.fileno())
        try:
            original = os.dup(2)
        except OSError:  # standard error is closed
            yield held
            return
        os.dup2(file.fileno(), 2)
        try:
            yield held
        finally:
            os.dup2(original, 2)
            os.close(original)
            held.write_to(2)


class _HeldOutput:
    """Output in a temporary file, that can be discarded."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def clear(self) -> None:
        """Discard the output so far."""
        os.ftruncate(self._descriptor, 0)

    def write_to(self, descriptor: int) -> None:
        """Write the output to another file descriptor."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        while block := os.read(self._descriptor, 1 << 16):
            os.write(descriptor, block)
