"""Write checkpoints: of a run, or of another format."""

from __future__ import annotations

import logging
import pathlib
from typing import Any

from foundation.console import printable
from jobs.record import print_path, record_job

logger = logging.getLogger(__name__)


def export(
    workdir: pathlib.Path,
    *,
    out: pathlib.Path | None = None,
    step: int | None = None,
    format: str | None = None,
    dtype: str | None = None,
    license: str | None = None,
) -> None:
    """Export a checkpoint of the run; `format` is by default the first of those of its job."""
    from pretrain.align.config import SETTINGS_FILE as ALIGN_FILE
    from pretrain.align.export import export_aligned
    from pretrain.checkpointing.export import export as export_towers

    aligned = (workdir / ALIGN_FILE).is_file()
    write, format = export_aligned if aligned else export_towers, format or ("aligned" if aligned else "huggingface")
    target = out or workdir / ("export.npz" if format == "big_vision" else "export")
    with record_job(workdir, "export") as describe:
        path = write(workdir, target, step=step, format=format, dtype=dtype, license=license)
        describe(f"to {path}")
    print(f"exported to {printable(path)}", flush=True)
    if format == "big_vision":
        logger.info(f"the .npz contains no tokenizer; open it with --tokenizer={workdir / 'tokenizer'}")


def convert(
    checkpoint: str,
    *,
    out: pathlib.Path,
    image_size: int | None = None,
    max_patches: int | None = None,
    tokenizer: str | None = None,
    canonicalize: str | None = None,
) -> None:
    """Write a checkpoint in another format: an .npz for big_vision, otherwise a Hugging Face directory."""
    from models.checkpoints.big_vision import save_big_vision
    from models.checkpoints.describe import describe_checkpoint
    from models.checkpoints.io import open_checkpoint, save_checkpoint

    if out.exists():
        raise FileExistsError(f"{out} already exists. Choose another --out.")

    def on_host(path: str, array: Any) -> Any:
        return array

    size = {"image_size": image_size, "max_patches": max_patches}
    if out.suffix != ".npz":
        texts = {"tokenizer": tokenizer, "canonicalize": canonicalize}
        save_checkpoint(out, open_checkpoint(checkpoint, **size, place=on_host, **texts))
    elif tokenizer is not None or canonicalize is not None:
        option = f"--canonicalize={canonicalize}" if tokenizer is None else f"--tokenizer={tokenizer}"
        raise ValueError(f"{option} cannot be written: an .npz contains no tokenizer. Omit the option.")
    else:
        found = describe_checkpoint(checkpoint, **size)
        found.check_towers()
        save_big_vision(out, found.settings, parameters=found.read(place=on_host), scalars=found.scalars())
        logger.info(f"the .npz contains no tokenizer; open it with --tokenizer={checkpoint}")
    print_path(out)
