"""Keep the output of a job out of the folders of runs and checkpoints."""

from __future__ import annotations

import os
import pathlib

RUN_FILES = ("pretrain.json", "align.json")  # the settings in the workdir of a run, by job
_RUN_FOLDERS = (
    "checkpoints",
    "damaged_checkpoints",
    "evaluation",
    "evaluations",
    "export",
    "inspect",
    "profile",
    "stalls",
    "tables",
    "tensorboard",
    "tokenizer",
)
_CHECKPOINT_FILES = ("config.json", "model.safetensors")


def check_output_folder(out: str | os.PathLike, *, option: str = "--out") -> None:
    """Raise `ValueError` if `out` is the workdir of a run or one of its own folders, or is or lies in a checkpoint.

    A folder with another name in a workdir is accepted.
    """
    out = pathlib.Path(out).expanduser().resolve()
    for folder in (out, *out.parents):
        within = out.relative_to(folder).parts
        if is_run(folder) and (not within or within[0] in _RUN_FOLDERS):
            raise ValueError(
                f"{option}={out} belongs to the run in {folder}. Use another folder, such as {folder}-out."
            )
        if all((folder / name).is_file() for name in _CHECKPOINT_FILES):
            raise ValueError(f"{option}={out} belongs to the checkpoint {folder}. Use another folder.")


def is_run(folder: pathlib.Path) -> bool:
    """Return whether a folder is the workdir of a run."""
    return any((folder / name).is_file() for name in RUN_FILES)
