"""Checkpoints of the training state. No other module knows that Orbax stores them."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import jax
import numpy as np

from pretrain.checkpointing.checksums import checksums, checksums_on_host, differences
from pretrain.train_step import TrainState

logger = logging.getLogger(__name__)

DAMAGED = "damaged_checkpoints"
_SUMS = "checksums"
_UNREADABLE = re.compile(r"[\\*?\[]|:/")
_OVERHEAD = 4_000_000  # bytes, for the file system's blocks and Orbax's own files


def check_folder_name(folder: str | os.PathLike) -> pathlib.Path:
    """Return the absolute path of a folder; raises `ValueError` for one whose checkpoints Orbax could not read back."""
    path = pathlib.Path(folder).absolute()
    found = _UNREADABLE.search(f"{path}/")
    if found:
        raise ValueError(
            f"checkpoints cannot be stored in {path}: the name contains {found[0].rstrip('/')!r}, which Orbax takes "
            "for a pattern or a separator. Rename the folder."
        )
    return path


class Checkpoints:
    """The checkpoints of a run, written in the background while training continues.

    A checkpoint appears under its final name only when it is complete. Kept are the newest `keep`, those of every
    `keep_every`-th step (0: none), and those that `best` selects of the existing steps. All hosts must make the same
    calls.
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

        _filter_log()
        policies = ocp.checkpoint_managers
        kept: list[Any] = [policies.LatestN(keep)]
        kept += [policies.EveryNSteps(keep_every)] if keep_every else []
        kept += [_SelectedSteps(best)] if best else []
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(kept),
            step_prefix="step",
            create=True,
            cleanup_tmp_directories=True,
        )
        self.folder = check_folder_name(folder)
        self._ocp = ocp
        self._manager = ocp.CheckpointManager(self.folder, options=self._options)

    def latest_step(self) -> int | None:
        """Return the step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints that exist or are being written, in ascending order."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState) -> None:
        """Start writing a checkpoint of `state`; training may continue at once."""
        step = int(state.step)
        if step == self.latest_step():
            return
        self._check_space(state)
        metadata = {_SUMS: checksums(state._asdict())}
        with _write_errors_as_sentences(self.folder):
            self._manager.save(step, args=self._ocp.args.StandardSave(state._asdict()), custom_metadata=metadata)

    def _check_space(self, state: TrainState) -> None:
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _OVERHEAD
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(
                f"a checkpoint needs {needed / 1e6:.1f} MB, but {self.folder} has {free / 1e6:.1f} MB left. Older "
                "checkpoints are intact: free some space, then run the same command again."
            )

    def restore(self, abstract_state: TrainState) -> TrainState:
        """Return the newest readable state, with the shardings of `abstract_state`.

        A damaged checkpoint is logged and moved to `damaged_checkpoints/` next to the folder, and the one before it is
        used. Raises `OSError` if no checkpoint is readable.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            raise _no_checkpoint(self.folder)
        problems: dict[int, str] = {}
        for step in steps:
            try:
                state = self._restore(step, abstract_state)
            except Exception as error:
                problems[step] = _first_line(error)
                logger.warning(f"the checkpoint of step {step} cannot be read: {problems[step]}")
                if jax.process_count() > 1:  # other processes may have read it, and wait
                    break
                continue
            if problems:
                logger.info(f"falling back to the checkpoint of step {step}")
                self._set_aside(problems)
            return state
        if jax.process_count() > 1 and len(steps) > 1:
            self._set_aside(problems)
            raise OSError(
                f"the checkpoint of step {steps[0]} in {self.folder} cannot be read and was moved to {DAMAGED}/. Run "
                f"the same command again to resume from step {steps[1]}."
            )
        raise OSError(
            f"none of the checkpoints in {self.folder} can be read ({_list(problems)}). Restore a copy, or use another "
            "--workdir to start again."
        )

    def rollback(self, step: int | None, abstract_state: TrainState) -> TrainState | None:
        """Delete the checkpoints after a step, or all of them for None, and return the state of that step."""
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
        """Wait until all checkpoints are written; raises `OSError` if one cannot be."""
        with _write_errors_as_sentences(self.folder):
            self._manager.wait_until_finished()
            self._manager.close()


@dataclasses.dataclass(frozen=True)
class _SelectedSteps:
    """Preservation policy that keeps the steps selected by a function of the existing steps.

    Orbax's `BestN` ranks by metrics that are passed to `save`; an evaluation ends long after its checkpoint is saved.
    """

    select: Callable[[Sequence[int]], Collection[int]]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        selected = self.select([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in selected for checkpoint in checkpoints]


def _check_sums(metadata: Any, found: Mapping[str, int]) -> None:
    """Raise `OSError` if arrays differ from what was saved; a checkpoint without checksums passes, which is logged."""
    expected = (metadata.custom_metadata or {}).get(_SUMS)
    if expected is None:
        logger.warning("the checkpoint has no readable checksums: its arrays are not checked")
        return
    damaged = differences(expected, found)
    if damaged:
        more = f" and {len(damaged) - 1} other arrays" if len(damaged) > 1 else ""
        raise OSError(f"the checksum of {damaged[0]}{more} is not the one that was saved")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def _list(problems: Mapping[int, str]) -> str:
    return "; ".join(f"step {step}: {problem}" for step, problem in problems.items())


def _no_checkpoint(folder: pathlib.Path) -> FileNotFoundError:
    return FileNotFoundError(f"{folder} contains no checkpoint. Run `launch.py pretrain` with this workdir first.")


def _filter_log() -> None:
    from absl import logging as absl_logging

    absl_logging.get_absl_logger().addFilter(_is_not_redundant)


def _is_not_redundant(record: logging.LogRecord) -> bool:
    """Filter out Orbax's log of tracebacks that it also raises, of whole damaged files, and of preemption signals."""
    redundant = ("Reached preemption sync point", "Failed to json parse")
    return not record.exc_info and not any(text in record.getMessage() for text in redundant)


@contextmanager
def _write_errors_as_sentences(folder: pathlib.Path) -> Iterator[None]:
    """Raise one `OSError` for whatever Orbax raises when it cannot write, which differs by version and layer.

    With several processes, other errors mean that a process was lost; they are raised unchanged.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() > 1 and "os_error_code" not in str(error):
            raise
        reason = re.search(r"([A-Z][\w ]+) \[os_error_code", str(error))
        reason = reason.group(1) if reason else str(error).partition("\n")[0]
        raise OSError(
            f"a checkpoint could not be written to {folder} ({reason}). Older ones are intact: solve the problem, then "
            "run the same command again."
        ) from error


class RestoredParameters(NamedTuple):
    """Parameters of a checkpoint as NumPy arrays, and its step."""

    step: int
    parameters: dict[str, Any]


def restore_parameters(folder: str | os.PathLike, *, step: int | None = None) -> RestoredParameters:
    """Return the parameters of a checkpoint, whatever devices it was saved from, without the optimizer state.

    Reads the checkpoint of `step`, or else the newest readable one; unreadable ones are logged.
    """
    import orbax.checkpoint as ocp

    _filter_log()
    folder = check_folder_name(folder)
    if not folder.is_dir():
        raise _no_checkpoint(folder)
    options = ocp.CheckpointManagerOptions(step_prefix="step", create=False)
    with ocp.CheckpointManager(folder, options=options, item_handlers=ocp.PyTreeCheckpointHandler()) as manager:
        steps = sorted(manager.all_steps(), reverse=True)
        if not steps:
            raise _no_checkpoint(folder)
        if step is not None and step not in steps:
            raise ValueError(f"{folder} has no checkpoint of step {step}. It has: {', '.join(map(str, sorted(steps)))}")
        problems: dict[int, str] = {}
        for each in steps if step is None else [step]:
            try:
                return RestoredParameters(each, _read_parameters(manager, each))
            except Exception as error:
                problems[each] = _first_line(error)
                logger.warning(f"the checkpoint of step {each} cannot be read: {problems[each]}")
    raise OSError(f"no checkpoint in {folder} can be read ({_list(problems)})")


def _read_parameters(manager: Any, step: int) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    wanted = {"parameters": manager.item_metadata(step).tree["parameters"]}
    as_arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    args = ocp.args.PyTreeRestore(item=wanted, restore_args=as_arrays, partial_restore=True)
    restored = manager.restore(step, args=args)
    _check_sums(manager.metadata(step), checksums_on_host(restored))
    return restored["parameters"]
