"""Training state on disk, by Orbax. Nothing else knows how it is stored."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import jax
import numpy as np

from pretrain.checkpointing.checksums import checksums, checksums_on_host, differences
from pretrain.train_step import TrainState

logger = logging.getLogger(__name__)

DAMAGED = "damaged_checkpoints"
_SUMS = "checksums"
_OVERHEAD = 4_000_000  # bytes, for the file system's blocks and Orbax's own files


class Checkpoints:
    """The checkpoints of a run, written in the background while training goes on.

    A checkpoint appears under its final name only when it is complete. The newest `keep` stay, those of every
    `keep_every`-th step (0: none), and those that `best` chooses of the steps that are there. All hosts do the same.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        keep: int = 2,
        keep_every: int = 0,
        best: Callable[[Sequence[int]], Collection[int]] | None = None,
    ):
        import orbax.checkpoint as ocp
        from absl import logging as absl_logging

        absl_logging.get_absl_logger().addFilter(_is_not_told_otherwise)
        policies = ocp.checkpoint_managers
        kept: list[Any] = [policies.LatestN(keep)]
        kept += [policies.EveryNSteps(keep_every)] if keep_every else []
        kept += [_Chosen(best)] if best else []
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(kept),
            step_prefix="step",
            create=True,
            cleanup_tmp_directories=True,
        )
        self.folder = pathlib.Path(folder).absolute()
        self._ocp = ocp
        self._manager = ocp.CheckpointManager(self.folder, options=self._options)

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints that are there or being written, the oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState) -> None:
        """Starts writing a checkpoint of `state`; training may go on at once."""
        step = int(state.step)
        if step == self.latest_step():
            return
        self._check_space(state)
        found = {_SUMS: checksums(state._asdict())}
        with _told_in_a_sentence(self.folder):
            self._manager.save(step, args=self._ocp.args.StandardSave(state._asdict()), custom_metadata=found)

    def _check_space(self, state: TrainState) -> None:
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _OVERHEAD
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(
                f"a checkpoint needs {needed / 1e6:.1f} MB and {self.folder} has {free / 1e6:.1f} MB left; older "
                "checkpoints are intact: make room, then run the same command again"
            )

    def restore(self, abstract_state: TrainState) -> TrainState:
        """Returns the newest state that can be read, placed as `abstract_state` says.

        One that is damaged is told and moved to `damaged_checkpoints/` beside the folder, and the one before it taken.
        Raises `OSError` where there is none that can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            raise FileNotFoundError(
                f"{self.folder} holds no checkpoint; run `launch.py pretrain` on this workdir first"
            )
        problems: dict[int, str] = {}
        for step in steps:
            try:
                state = self._restore(step, abstract_state)
            except Exception as error:
                problems[step] = _first_line(error)
                logger.warning(f"the checkpoint of step {step} cannot be read: {problems[step]}")
                if jax.process_count() > 1:  # the others may have read it, and wait
                    break
                continue
            if problems:
                logger.info(f"going back to the checkpoint of step {step}")
                self._set_aside(problems)
            return state
        if jax.process_count() > 1 and len(steps) > 1:
            self._set_aside(problems)
            raise OSError(
                f"the checkpoint of step {steps[0]} in {self.folder} cannot be read and was moved to {DAMAGED}/; the "
                f"same command goes on at step {steps[1]}"
            )
        raise OSError(
            f"none of the checkpoints in {self.folder} can be read ({_told(problems)}); put a copy there, or name "
            "another --workdir to begin anew"
        )

    def back_to(self, step: int | None, abstract_state: TrainState) -> TrainState | None:
        """Forgets the checkpoints after a step, or all where it is None; returns the state of that step."""
        self._manager.wait_until_finished()
        for later in [each for each in self._manager.all_steps() if step is None or each > step]:
            self._manager.delete(later)
        return None if step is None else self._restore(step, abstract_state)

    def _restore(self, step: int, abstract_state: TrainState) -> TrainState:
        restored = self._manager.restore(step, args=self._ocp.args.StandardRestore(abstract_state._asdict()))
        _check_sums(self._manager.metadata(step), checksums(restored))
        return TrainState(**restored)

    def _set_aside(self, steps: Collection[int]) -> None:
        self._manager.close()
        folder = self.folder.parent / DAMAGED
        for step in steps:
            with suppress(FileNotFoundError, FileExistsError):  # another host has moved it
                folder.mkdir(exist_ok=True)
                damaged = folder / f"step_{step}"
                if damaged.exists():
                    shutil.rmtree(damaged)
                os.replace(self.folder / f"step_{step}", damaged)
        self._manager = self._ocp.CheckpointManager(self.folder, options=self._options)

    def close(self) -> None:
        """Waits until everything is written; raises `OSError` where it could not be."""
        with _told_in_a_sentence(self.folder):
            self._manager.wait_until_finished()
            self._manager.close()


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """Orbax's policy that keeps the steps that `best` chooses of those that are there."""

    best: Callable[[Sequence[int]], Collection[int]]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        chosen = self.best([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in chosen for checkpoint in checkpoints]


def _check_sums(metadata: Any, found: Mapping[str, int]) -> None:
    """Raises `OSError` where arrays are not those that were saved; checkpoints of before there were sums pass."""
    expected = (metadata.custom_metadata or {}).get(_SUMS)
    damaged = differences(expected, found) if expected is not None else []
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise OSError(f"{damaged[0]}{more} is not what was saved")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def _told(problems: Mapping[int, str]) -> str:
    return "; ".join(f"step {step}: {problem}" for step, problem in problems.items())


def _is_not_told_otherwise(record: logging.LogRecord) -> bool:
    """Keeps Orbax from logging the tracebacks of errors that it raises as well, and what a scheduler's signal does."""
    return not record.exc_info and "Reached preemption sync point" not in record.getMessage()


@contextmanager
def _told_in_a_sentence(folder: pathlib.Path) -> Iterator[None]:
    """Turns what Orbax raises when it cannot write, which differs by version and layer, into one `OSError`.

    One of several processes that has lost another tells that in its own words, which are left to it.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() > 1 and "os_error_code" not in str(error):
            raise
        reason = re.search(r"([A-Z][\w ]+) \[os_error_code", str(error))
        reason = reason.group(1) if reason else str(error).partition("\n")[0]
        raise OSError(
            f"a checkpoint could not be written to {folder} ({reason}); older ones are intact: mend that, then run the "
            "same command again"
        ) from error


def restore_parameters(folder: str | os.PathLike, *, step: int | None = None) -> tuple[int, dict[str, Any]]:
    """Returns (step, parameters) of a checkpoint as NumPy arrays, whatever the devices it was saved from.

    It is that of `step`, or else the newest that can be read; what cannot is logged. The optimizer's state
    is not read.
    """
    import orbax.checkpoint as ocp

    folder = pathlib.Path(folder).absolute()
    missing = FileNotFoundError(f"{folder} holds no checkpoint; run `launch.py pretrain` on this workdir first")
    if not folder.is_dir():
        raise missing
    options = ocp.CheckpointManagerOptions(step_prefix="step", create=False)
    with ocp.CheckpointManager(folder, options=options, item_handlers=ocp.PyTreeCheckpointHandler()) as manager:
        steps = sorted(manager.all_steps(), reverse=True)
        if not steps:
            raise missing
        if step is not None and step not in steps:
            raise ValueError(f"{folder} has no checkpoint of step {step}; it has {', '.join(map(str, sorted(steps)))}")
        problems: dict[int, str] = {}
        for each in steps if step is None else [step]:
            try:
                return each, _read_parameters(manager, each)
            except Exception as error:
                problems[each] = _first_line(error)
                logger.warning(f"the checkpoint of step {each} cannot be read: {problems[each]}")
    raise OSError(f"no checkpoint in {folder} can be read ({_told(problems)})")


def _read_parameters(manager: Any, step: int) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    wanted = {"parameters": manager.item_metadata(step).tree["parameters"]}
    as_arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    args = ocp.args.PyTreeRestore(item=wanted, restore_args=as_arrays, partial_restore=True)
    restored = manager.restore(step, args=args)
    _check_sums(manager.metadata(step), checksums_on_host(restored))
    return restored["parameters"]
