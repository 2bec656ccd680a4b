"""Look at a run before it starts: the batches that it reads, and the step that it compiles."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from jobs.record import print_path

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def inspect_data(
    config: ConfigDict, workdir: pathlib.Path, *, step: int = 0, steps: int = 8, rows: int = 64, pairs: int = 8192
) -> None:
    """Write pages that show the batch of a step and advise on context; the run in the workdir does not change."""
    if "pretrain" not in config and "align" in config:
        from pretrain.tools.inspect_pairs import inspect_pairs

        print_path(inspect_pairs(config.align, workdir, data_dir=config.data_dir, pairs=pairs))
        return
    from pretrain.tools.inspect_batches import inspect

    print_path(
        inspect(config.pretrain, workdir, data_dir=config.data_dir, step=step, steps=steps, shown=rows, pairs=pairs)
    )


def compile_step(
    config: ConfigDict, topology: str, *, hlo: pathlib.Path | None = None, json: pathlib.Path | None = None
) -> int:
    """Compile the training step ahead of time; return 1 if it does not fit the topology."""
    from pretrain.compilation.job import compile_job

    return 0 if compile_job(config.pretrain, topology, hlo=hlo, json_file=json) else 1
