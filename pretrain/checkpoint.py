"""Training state on disk, by Orbax. Nothing else knows how it is stored."""

from __future__ import annotations

import logging
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from pretrain.step import TrainState

_OVERHEAD = 4_000_000  # bytes, for the file system's blocks and Orbax's own files


class Checkpoints:
    """The newest checkpoints of a run, written in the background while training goes on.

    A checkpoint appears under its final name only when it is complete.
    """

    def __init__(self, folder: str | os.PathLike, *, keep: int = 2):
        import orbax.checkpoint as ocp
        from absl import logging as absl_logging

        absl_logging.get_absl_logger().addFilter(_is_no_interruption)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, step_prefix="step", create=True)
        self.folder = pathlib.Path(folder).absolute()
        self._ocp = ocp
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Starts writing a checkpoint of `state`; training may go on at once."""
        step = int(state.step)
        if step != self.latest_step():
            self._check_space(state)
            with _told_in_a_sentence(self.folder):
                self._manager.save(step, args=self._ocp.args.StandardSave(state._asdict()))

    def _check_space(self, state: TrainState) -> None:
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _OVERHEAD
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(
                f"a checkpoint needs {needed / 1e6:.1f} MB and {self.folder} has {free / 1e6:.1f} MB left; older "
                "checkpoints are intact: make room, then run the same command again"
            )

    def restore(self, abstract_state: TrainState) -> TrainState:
        """Returns the newest state, placed as `abstract_state` says."""
        step = self.latest_step()
        if step is None:
            raise FileNotFoundError(
                f"{self.folder} holds no checkpoint; run `launch.py pretrain` on this workdir first"
            )
        restored = self._manager.restore(step, args=self._ocp.args.StandardRestore(abstract_state._asdict()))
        return TrainState(**restored)

    def close(self) -> None:
        """Waits until everything is written; raises `OSError` where it could not be."""
        with _told_in_a_sentence(self.folder):
            self._manager.wait_until_finished()
            self._manager.close()


def _is_no_interruption(record: logging.LogRecord) -> bool:
    """Keeps Orbax from logging, with a traceback, that the user interrupted it."""
    return not (record.exc_info and record.exc_info[0] is KeyboardInterrupt)


@contextmanager
def _told_in_a_sentence(folder: pathlib.Path) -> Iterator[None]:
    """Turns what Orbax raises when it cannot write, which differs by version and layer, into one `OSError`."""
    try:
        yield
    except Exception as error:
        reason = re.search(r"([A-Z][\w ]+) \[os_error_code", str(error))
        reason = reason.group(1) if reason else str(error).partition("\n")[0]
        raise OSError(
            f"a checkpoint could not be written to {folder} ({reason}); older ones are intact: mend that, then run the "
            "same command again"
        ) from error


def restore_parameters(folder: str | os.PathLike) -> tuple[int, dict[str, Any]]:
    """Returns (step, parameters) of the newest checkpoint as NumPy arrays, whatever the devices it was saved from.

    The optimizer's state is not read.
    """
    import orbax.checkpoint as ocp

    folder = pathlib.Path(folder).absolute()
    missing = FileNotFoundError(f"{folder} holds no checkpoint; run `launch.py pretrain` on this workdir first")
    if not folder.is_dir():
        raise missing
    options = ocp.CheckpointManagerOptions(step_prefix="step", create=False)
    with ocp.CheckpointManager(folder, options=options, item_handlers=ocp.PyTreeCheckpointHandler()) as manager:
        step = manager.latest_step()
        if step is None:
            raise missing
        wanted = {"parameters": manager.item_metadata(step).tree["parameters"]}
        as_arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        args = ocp.args.PyTreeRestore(item=wanted, restore_args=as_arrays, partial_restore=True)
        restored = manager.restore(step, args=args)
    return step, restored["parameters"]
