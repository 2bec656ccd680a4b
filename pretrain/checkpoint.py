"""Training state on disk, by Orbax. Nothing else knows how it is stored."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import jax

from pretrain.step import TrainState


class Checkpoints:
    """The newest checkpoints of a run, written in the background while training goes on.

    A checkpoint appears under its final name only when it is complete.
    """

    def __init__(self, folder: str | os.PathLike, *, keep: int = 2):
        import orbax.checkpoint as ocp

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
            self._manager.save(step, args=self._ocp.args.StandardSave(state._asdict()))

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
        """Waits until everything is written; raises what went wrong while writing."""
        self._manager.wait_until_finished()
        self._manager.close()


def restore_parameters(folder: str | os.PathLike) -> tuple[int, dict[str, Any]]:
    """Returns (step, parameters) of the newest checkpoint as NumPy arrays, without the optimizer's state."""
    import orbax.checkpoint as ocp

    folder = pathlib.Path(folder).absolute()
    missing = FileNotFoundError(f"{folder} holds no checkpoint; run `launch.py pretrain` on this workdir first")
    if not folder.is_dir():
        raise missing
    with ocp.CheckpointManager(
        folder, options=ocp.CheckpointManagerOptions(step_prefix="step", read_only=True)
    ) as manager:
        step = manager.latest_step()
        if step is None:
            raise missing
        restored = manager.restore(step, args=ocp.args.StandardRestore())
    return step, jax.device_get(restored["parameters"])
